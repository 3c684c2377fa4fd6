// Which configuration of a study to deploy: what meets a specification, the choice with its reasons, how sure
// it is, and what every other one fails. From stored results alone. docs/recommend.md says the rule.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "report/critical_issues.h"
#include "report/recommend_candidates.h"
#include "report/recommend_quality.h"

namespace nibble::report {

// A critical issue that the choice itself shows.
struct Warning {
  std::string rule, title, figures;
};

struct Recommendation {
  Specification spec;
  std::vector<std::string> tasks;  // that count
  std::vector<Candidate> candidates;

  // Indices into `candidates`.
  std::optional<size_t> choice;  // none: nothing meets the specification
  std::optional<size_t> leader;  // the best scores of what is feasible; the choice is as good
  std::vector<Against>
      against;                 // by candidate, to the leader; empty for the leader and for what is infeasible
  std::vector<size_t> tied;    // as good as the choice; the preference decided, or nothing did
  std::vector<size_t> equal;   // of these, those that the preference cannot tell from it either
  std::vector<size_t> rivals;  // of these, those that another run could put first: equal, or maybe better
  double unseen_accuracy =
      0;                    // the largest gain of a rival that these rows cannot rule out: share of answers,
  double unseen_ratio = 0;  // and ln of a perplexity ratio
  // A repeated measurement could turn a narrow check over, and then one of these would be chosen.
  std::vector<size_t> overturning;
  std::optional<size_t> nearest;  // without a choice: what fails by the least; none: nothing was measured
  std::optional<size_t>
      best_quantized;  // when the choice is a baseline: what would be chosen without baselines
  std::vector<Warning> warnings;

  // Whether another run could lead to another choice.
  bool is_tie() const { return !rivals.empty() || !overturning.empty(); }
};

// `issues`: those of the study. `study` must outlive the result. Throws UsageError as tasks_that_count()
// does, Error for an empty study.
Recommendation recommend(const StudyView& study, const CriticalIssues& issues, const Specification& spec);

// Everything else, in the order in which it would be taken: as good, feasible, then by what it fails.
std::vector<size_t> runners_up(const Recommendation& recommendation);
// Why candidate `i` is not the choice, in a few words.
std::string why_not(const Recommendation& recommendation, size_t i);

// Of a recommendation with a choice, in one sentence each: why this one, and what could overturn it.
std::string why_text(const Recommendation& recommendation);
std::string sure_text(const Recommendation& recommendation);
// What a candidate loses against its baseline, and what could not have been seen.
std::string quality_text(const Candidate& candidate);
// The lines of a page about the recommendation: (label, sentence), labels like "Why" and "How sure".
std::vector<std::pair<std::string, std::string>> reasons(const Recommendation& recommendation);
// "clear", "tie", "none".
std::string_view verdict_name(const Recommendation& recommendation);

// The choice stands in the first line. No line is longer than `width`, as far as words allow.
std::string render_recommendation(const Recommendation& recommendation, size_t width = 104);
OrderedJson to_json(const Recommendation& recommendation);

}  // namespace nibble::report
