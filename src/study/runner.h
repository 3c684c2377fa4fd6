// Runs a study: every cell in a fresh process of the nibble program, every result into DIR/results.db.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "study/plan.h"
#include "study/store.h"

namespace nibble {

// One process of the study.
struct StudyStep {
  Variant variant;
  std::string work;  // "info" or "quantize", which come before a variant's cells; a task; "kl"; "bench"
  size_t cell = 0;   // number of the cell, from 1; of "info" and "quantize": of the first that follows
  size_t cells = 0;  // in the plan
  std::optional<double> seconds_left;  // of the whole study, guessed from what is done; none: nothing is yet
};

// Hears what happens, one call at a time. What it throws ends the study as a crash would.
class StudyObserver {
 public:
  virtual ~StudyObserver() = default;
  virtual void step_started(const StudyStep&) {}
  virtual void progress(const StudyStep&, std::string_view /*line*/) {}  // a line of the child's stderr
  virtual void step_done(const StudyStep&, double /*seconds*/) {}
  virtual void step_failed(const StudyStep&, const std::string& /*reason*/) {}
  virtual void cell_done(const StudyStep&, const Cell&) {}  // after it is stored, done or failed
};

// Which part of a study this run measures: variants index, index + count, … of the plan, counted from 1. A
// variant is never split, so that it is quantized once.
struct Shard {
  size_t index = 1, count = 1;
  bool takes(size_t variant) const { return variant % count == index - 1; }
};
Shard parse_shard(std::string_view text);                                       // "2/3"; throws UsageError
std::vector<Cell> cells_of_shard(std::vector<Cell> cells, const Shard& shard);  // of planned_cells()

struct RunnerOptions {
  std::filesystem::path program = "/proc/self/exe";  // nibble, or what a test gives for it
  std::string version;                               // of nibble, into the database
  Shard shard;                                       // the other cells stay planned
  int jobs = 1;  // quantizations at a time, as far as memory allows; nothing timed runs beside them
};

struct StudyOutcome {
  size_t cells = 0, done = 0, failed = 0;  // of this shard of the plan, done now or before
  int stop_signal = 0;                     // that ended the run early; 0: it went through
  std::string message;                     // one line: what there is now, and how to go on
  bool complete() const { return done == cells; }
};

// Runs what is planned or failed, baseline first; done cells stay. Leaves in `dir`: results.db, study.toml
// (the plan, all defaults filled in), logs/VARIANT.WORK.log, models/VARIANT/. A failed cell is stored with
// its reason and the rest goes on. SIGINT, SIGTERM and SIGHUP stop the child, then the study.
// Throws Error when nothing sensible can go on: the disk is full, another study runs in `dir`, `dir` holds
// a study with other options.
StudyOutcome run_study(const StudyPlan& plan, const std::filesystem::path& dir, const RunnerOptions& options,
                       StudyObserver& observer);

}  // namespace nibble
