// What a study would still do, and how long and how much memory that will take, before it is begun.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "study/plan.h"
#include "study/runner.h"
#include "study/store.h"

namespace nibble {

// A figure and what it was taken from.
struct Prediction {
  double value = 0;
  bool rough = false;  // scaled from another model
  std::string basis;  // "measured", "as llama-mini gptq-4bit-g64 gsm8k", "…, by the ratio of the parameters"
};

struct ForecastStep {
  Variant variant;
  std::string work;  // "quantize", a task, "bench"
  std::optional<Prediction> seconds;
  std::optional<Prediction> memory;  // peak RSS in bytes
};

struct Forecast {
  size_t cells = 0, done = 0;       // of this shard
  std::vector<ForecastStep> steps;  // to be run, in order
  size_t measured = 0;              // cells that the predictions come from

  // Over the steps; none when one of them is unknown.
  std::optional<double> seconds() const;
  const ForecastStep* most_memory() const;  // null when nothing is known
  size_t without_memory() const, without_seconds() const;
  bool rough() const;
};

// Predicts from what DIR has measured, and `like` (other studies on this machine). The same work on the same
// variant; failing that on the same model, both quantized or neither; failing that on another model, times
// the ratio of `parameters` (of the models of the plan), which is rough. Rows, windows and samples are taken
// to be those of the study that was measured. Runs nothing, writes nothing.
Forecast forecast_study(const StudyPlan& plan, const std::filesystem::path& dir, const Shard& shard,
                        const std::vector<std::filesystem::path>& like,
                        const std::map<std::string, uint64_t>& parameters);

}  // namespace nibble
