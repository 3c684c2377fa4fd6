// How long the rest of a study will take, from how long its parts took.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "study/store.h"

namespace nibble {

class TimeLeft {
 public:
  using Work = std::pair<Variant, std::string>;  // the string: a task, "bench" or "quantize"

  void add_done(const Variant& variant, const std::string& work, double seconds);
  bool knows(const Variant& variant, const std::string& work) const;
  // Seconds. A piece is guessed as the mean of the same work on the same model and method; failing that,
  // on the same model; on any; of all. None before anything is done.
  std::optional<double> estimate(const std::vector<Work>& left) const;

 private:
  std::optional<double> guess(const Work& work) const;
  std::vector<std::pair<Work, double>> done_;
};

}  // namespace nibble
