// Which of two configurations answers better, task by task, as far as the rows can tell.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "report/recommend_candidates.h"

namespace nibble::report {

// Of a candidate, against a leader. kTrade: better on one task, worse on another. kUnknown: some task does
// not compare.
enum class Standing { kSame, kBetter, kWorse, kTrade, kUnknown };
std::string_view standing_name(Standing standing);

struct TaskStanding {
  std::string task;
  Standing standing = Standing::kUnknown;
  double loss = 0;  // of the capped score: share of the leader's accuracy, or ln of the perplexity ratio
  bool is_ratio = false;                           // perplexity
  bool bits_per_byte = false;                      // across models: the ratio is of bits per byte
  double difference = 0, ci_low = 0, ci_high = 0;  // candidate − leader, as in Comparison; 95 %
  double smallest_detectable = 0;                  // NaN where unknown
  double p = 1, p_holm = 1;                        // corrected over all candidates and tasks of one call
  std::string unknown;                             // why there is nothing to compare
};

struct Against {
  std::vector<TaskStanding> tasks;
  Standing overall() const;
  const TaskStanding* worst() const;  // of the tasks where it is worse; null when there is none
};

// Two results of a study compared, each pair once: a choice asks for the same ones again and again.
class Comparisons {
 public:
  // Those of a variant with its own baseline are the study's.
  const Comparison& of(const TaskScore& first, const TaskScore& second);

 private:
  std::map<std::pair<const TaskView*, const TaskView*>, Comparison> known_;
};

// Mean accuracy, then perplexity, then size: whether a comes before b.
bool scores_higher(const Candidate& a, const Candidate& b);

// Every other candidate against the leader: by index, empty for the leader itself. "Worse" asks for three
// things: the paired interval excludes 0, p by Holm is below 5 %, and the loss exceeds the tolerance. A gain
// over a model's own baseline never counts (TaskScore::capped).
std::vector<Against> compare_with_leader(const std::vector<const Candidate*>& candidates, size_t leader,
                                         const Specification& spec, Comparisons& comparisons);

// The candidate that no other beats: begins with the best mean score and gives way to whoever is better on a
// task and worse on none. `against` gets the last comparison.
size_t find_leader(const std::vector<const Candidate*>& candidates, const Specification& spec,
                   Comparisons& comparisons, std::vector<Against>& against);

}  // namespace nibble::report
