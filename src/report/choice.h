// Which variant of a model the page names first.
#pragma once

#include <string>
#include <vector>

#include "report/study_view.h"

namespace nibble::report {

struct Choice {
  const ModelView* model = nullptr;
  const VariantView* variant = nullptr;  // null: none is to be named
  bool keeps = false;                    // no measurable loss on any accuracy task, no perplexity blow-up
  std::string reason;                    // one sentence: why this one, or why none
  std::vector<std::string> cautions;     // what the study could not have seen, what else stands against it
};

// One a model, in the study's order; views into `study`. Among the quantized variants with a result for every
// accuracy task: those that lose nothing measurable on any of them and whose perplexities stay under 1.5
// times the baseline's. Of these the smallest file; files within 2 % of it count as equal, and the lower
// perplexity decides. Where none keeps that, the one with the smallest loss, and `keeps` is false.
std::vector<Choice> choose(const StudyView& study);

}  // namespace nibble::report
