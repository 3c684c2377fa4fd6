// The critical issues of a study, each found by its rule from stored results.
#pragma once

#include <string>
#include <vector>

#include "report/study_view.h"

namespace nibble::report {

struct Evidence {
  std::string cell;    // "gptq g64, boolq"
  std::string figure;  // what was measured
};

struct Issue {
  std::string rule;       // key: "memory_paradox"
  std::string title;      // "Memory paradox"
  std::string where;      // "llama-mini", "llama-mini boolq"
  std::string finding;    // one sentence
  std::string threshold;  // what the figures were held against
  std::vector<Evidence> evidence;
  std::string cause;  // the likely one
};

// What became of a rule: a rule without issues is only reassuring where it could be judged.
struct RuleCheck {
  std::string rule, title, criterion;
  size_t judged = 0;                    // cells or comparisons looked at
  size_t found = 0;                     // issues
  std::vector<std::string> not_judged;  // reasons; each is a "Missing data" issue, too
};

struct CriticalIssues {
  std::vector<Issue> issues;  // in the order of the rules
  std::vector<RuleCheck> checks;
};

CriticalIssues find_critical_issues(const StudyView& study);

}  // namespace nibble::report
