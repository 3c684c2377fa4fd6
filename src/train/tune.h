// A quantized model moved nearer to the one it was made from: scales and zero points by the next-token
// distributions, and before that, where it is wanted, its integers block by block (train/round_blocks.h).
// Sizes and speed stay.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "quant/calibration.h"
#include "train/gradient_pass.h"
#include "train/round_blocks.h"
#include "train/unfinished_training.h"

namespace nibble {

struct TuneOptions {
  bool scales = true, zeros = false, rounding = false;
  int steps = 150;              // each on one sequence
  int tokens = 256;             // of a sequence
  double rate = 5e-4;           // a step moves a scale by about this share of it at first, falling to 0
  double zero_rate = 1e-2;      // and a zero point by this much of a code
  double temperature = 1;       // at which distributions are held against each other
  int checks = 4;               // times that the held-out text is looked at on the way
  int held_out = 8;             // sequences of it
  bool recompute = false;       // GradientOptions
  RoundingOptions blocks = {};  // of rounding
  void validate() const;        // throws UsageError
};
std::string tuned_parts(const TuneOptions& options);  // "rounding+scales"

struct TuneReport {
  struct Check {
    int step;
    double kl;  // mean over the held-out text, nats
  };
  std::vector<Check> checks;  // the first before any step
  int best_step = 0;          // whose scales were kept; 0: those that were there
  int64_t tokens = 0;         // trained on
  double seconds = 0;
  uint64_t peak_rss = 0;
};
OrderedJson to_json(const TuneReport& report, const TuneOptions& options);

// After each step; kl: of the step's sequence, smoothed. May throw to cancel.
using TuneProgress = std::function<void(int step, int total, double kl)>;

// Tunes `trained`, a quantized form of `original`, on `text` (its last options.held_out samples are only
// looked at) and leaves in it the best state seen at a check. Throws Error where there is nothing to tune.
TuneReport tune(std::shared_ptr<const Model> original, TrainedModel& trained, const Calibration& text,
                const TuneOptions& options, ThreadPool& pool, const TuneProgress& progress,
                const KeepOptions& keep = {});

// The same for the nibble directory `dir` that quantize_model() wrote, complete or to be completed: its
// weights, configuration and report are replaced, the weights where a check was better than the start: first
// integers, if options.rounding, then scales and zero points, if wanted. Where it is stopped, the same call
// goes on; the directory is complete when it returns. keep.folder is not read. Returns the report.
OrderedJson tune_directory(std::shared_ptr<const Model> original, const std::filesystem::path& dir,
                           CalibrationOptions text, const TuneOptions& options, ThreadPool& pool,
                           const TuneProgress& progress, KeepOptions keep = {},
                           const RoundingProgress& rounding_progress = nullptr);

}  // namespace nibble
