// The rules behind the critical issues: one function each. Used by critical_issues.cpp alone.
#pragma once

#include <string>
#include <vector>

#include "report/critical_issues.h"

namespace nibble::report {

struct RuleResult {
  std::vector<Issue> issues;  // rule and title are filled in by the caller where empty
  size_t judged = 0;
  std::vector<std::string> not_judged;  // why, where data is lacking
};

// Calls visit(model, baseline cell, variant, cell) for every quantized cell of a task that has a result.
// The baseline cell may be null or without a result. "bench" is visited only where `with_bench`.
template <typename Visit>
void for_each_quantized(const StudyView& study, bool with_bench, Visit visit) {
  for (const ModelView& model : study.models) {
    const VariantView* baseline = model.baseline();
    for (const VariantView& variant : model.variants) {
      if (variant.variant.is_baseline()) continue;
      for (const TaskView& cell : variant.tasks) {
        if (!cell.missing.empty() || (!cell.result && !with_bench)) continue;
        visit(model, baseline ? baseline->find(cell.task) : nullptr, variant, cell);
      }
    }
  }
}

// "gptq g64, boolq".
std::string cell_name(const VariantView& variant, const TaskView& cell);

// The issue of `where` in `issues`, added when it is new: cells of one model share an issue.
Issue& issue_at(std::vector<Issue>& issues, const std::string& where);

// rules_of_scores.cpp
RuleResult math_failure(const StudyView& study);
RuleResult improbable_gain(const StudyView& study);
RuleResult constant_answers(const StudyView& study);
RuleResult perplexity_blow_up(const StudyView& study);
// rules_of_methods.cpp
RuleResult inconsistent_benefits(const StudyView& study);
RuleResult weights_not_quantized(const StudyView& study);
// rules_of_resources.cpp
RuleResult memory_paradox(const StudyView& study);
RuleResult slower_than_baseline(const StudyView& study);
RuleResult impossible_size(const StudyView& study);

}  // namespace nibble::report
