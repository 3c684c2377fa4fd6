// Table 1: a row per model and dataset, the baseline against the best of its quantized variants.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/study_view.h"

namespace nibble::report {

// A change of bytes against the baseline; − is less.
struct Change {
  double bytes = 0;
  double share = 0;  // of the baseline's
};

struct Table1Row {
  std::string model, task;
  const VariantView* baseline = nullptr;    // of the model, measured or not
  const TaskView* baseline_cell = nullptr;  // null when there is none in the plan
  const VariantView* best = nullptr;        // null when no quantized variant has a result
  const TaskView* best_cell = nullptr;
  std::string missing_baseline, missing_best;  // reasons; empty when there is a score
  std::vector<const VariantView*> tied;        // no measurable difference to the top one; empty without a tie
  std::string tie_note;                        // how the tie was resolved; empty without a tie
  size_t candidates = 0;                       // quantized variants with a score
  std::optional<Change> memory;                // peak RSS of the same task
  std::string missing_memory;
  std::optional<Change> size;  // bytes of the file
  std::string missing_size;
  std::string observation;  // one sentence made from the facts above
};

// The rows, by model, then by task, as planned. Views into `study`, which must outlive them.
// Best is the best primary metric; among those with no measurable difference to it (by Holm over the others),
// the smallest file.
std::vector<Table1Row> table1(const StudyView& study);

// "75.0 [65.7, 82.5]", in % or as perplexity; "missing (reason)".
std::string score_text(const TaskView* cell, const std::string& missing);
// "−35.1 %", or "missing (reason)".
std::string change_text(const std::optional<Change>& change, const std::string& missing);
// "−6.9 MB (−35.1 %)", or "missing (reason)".
std::string change_in_full(const std::optional<Change>& change, const std::string& missing);
// What `significance` says in full: the verdict, and what could have been shown where it is none.
std::string significance_text(const Comparison& comparison);

}  // namespace nibble::report
