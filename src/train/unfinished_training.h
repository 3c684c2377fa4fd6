// What a training that was stopped goes on from, kept beside its result until that is complete.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/stopwatch.h"

namespace nibble {

// Float arrays by name that a training changes; their sizes stay.
using StateArrays = std::vector<std::pair<std::string, std::vector<float>*>>;

struct KeepOptions {
  std::filesystem::path folder = {};  // empty: nothing is kept
  int every = 0;                      // steps between two states; 0: by time, at a small share of it
  bool force = false;                 // what was begun with other settings is begun anew
  std::string version = {};           // of this program
};

// One file in a folder. It holds the settings that the training was begun with: everything that the result
// depends on, by the names that a person gives them, such as "--rank"; the instruction set and the version
// are added to them.
class UnfinishedTraining {
 public:
  UnfinishedTraining(KeepOptions options, const std::string& name, OrderedJson settings);

  // Fills the arrays and returns what save() was given with them; none where nothing was begun. Throws Error
  // for a damaged file and, unless options.force, for one with other settings, which it names.
  std::optional<Json> load(const StateArrays& arrays) const;
  // Throws Error when the disk is full; what was there stays.
  void save(const StateArrays& arrays, const OrderedJson& progress);
  // Whether it is time to, after `step` steps.
  bool is_due(int step) const;

 private:
  KeepOptions options_;
  std::filesystem::path file_;
  OrderedJson settings_;
  Stopwatch since_;  // the last save
  double cost_ = 0;  // seconds that it took
};

}  // namespace nibble
