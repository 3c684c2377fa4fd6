// A study as the report sees it: models → variants → task results, each compared with the baseline of its
// model on the same rows. Built from stored results alone.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "report/analysis_view.h"
#include "report/comparison.h"
#include "study/store.h"

namespace nibble::report {

// Reasons that others tell apart: of a planned cell, and what a comparison without its baseline begins with.
constexpr const char* kNotRunYet = "not run yet";
constexpr const char* kBaselineMissing = "baseline missing";
constexpr const char* kNoBaseline = "its unquantized model is not in the study";

// A cell of the study: one variant on one task.
struct TaskView {
  std::string task;
  std::string missing;               // why there is no result; empty when there is one
  double seconds = 0;                // wall time of its process
  std::optional<TaskResult> result;  // without samples; of tasks only
  std::vector<Row> rows;             // its samples
  std::optional<MemoryBytes> memory;
  Json bench;              // task "bench": the array of `bench -o json`
  Json distance;           // task "kl": the object of `compare --json`
  Comparison to_baseline;  // quantized variants; not comparable for a baseline

  // The metric of Table 1, or null.
  const Metric* primary() const;
};

struct VariantView {
  Variant variant;
  std::optional<VariantFacts> facts;
  std::vector<TaskView> tasks;

  const TaskView* find(const std::string& task) const;
  // "baseline" or "gptq g64"; "gptq 3-bit g64" where it is not 4 bits; "gptq row" for whole rows; "awq g128
  // (org/name)" of a model that was quantized before and is compared with another.
  std::string label() const;
};

struct ModelView {
  std::string name;
  std::vector<VariantView> variants;  // baseline first, else as planned
  StoredAnalysis analysis;

  const VariantView* baseline() const;
};

struct StudyView {
  std::map<std::string, std::string> meta;
  std::vector<ModelView> models;
  std::vector<std::string> tasks;  // as planned, without what is no task
  size_t comparisons = 0;          // the family that Holm's correction covers

  std::optional<std::string> meta_text(const std::string& key) const;
};

// Pairs every quantized cell with its baseline and corrects the p-values for their number.
StudyView load_study(const Store& store);

}  // namespace nibble::report
