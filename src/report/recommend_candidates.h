// What each configuration of a study offers, and whether it meets a specification.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "report/recommend_specification.h"
#include "report/study_view.h"

namespace nibble::report {

// Relative slack of comparisons with a limit: 0.49/0.5 meets one of 98 %.
inline constexpr double kRounding = 1e-9;

// A figure with the range in which a repeated measurement may land; low = high where it is exact.
struct Figure {
  double value = std::numeric_limits<double>::quiet_NaN();
  double low = value, high = value;
  std::string missing;     // why there is none; empty when there is one
  std::string basis;       // what it was measured on
  bool predicted = false;  // for another machine

  bool known() const { return missing.empty(); }
};

enum class Unit { kBytes, kTokensPerSecond, kMilliseconds, kShare, kRatio };
std::string figure_text(double value, Unit unit);

// "Narrowly": met or failed, but the other would lie within the figure's range.
enum class Status { kMeets, kMeetsNarrowly, kFailsNarrowly, kFails, kMissing };
constexpr bool meets(Status status) { return status == Status::kMeets || status == Status::kMeetsNarrowly; }

// One limit held against one figure.
struct Check {
  std::string key, name;  // "max_memory"; "peak memory", "accuracy kept"
  std::string task;       // that the figure is of; empty where it is of the whole
  Unit unit = Unit::kBytes;
  double limit = 0;
  bool at_most = true;
  Figure figure;
  Status status = Status::kMissing;

  double excess() const;           // relative distance from the limit; 0 when met, infinite when missing
  std::string full_name() const;   // "accuracy kept on boolq"
  std::string limit_text() const;  // "at most 600 MB"
  std::string text() const;        // "peak memory 560.2 MB, limit 450 MB, narrowly", or why it is missing
};

// The score on a task that counts.
struct TaskScore {
  std::string task;
  const TaskView* cell = nullptr;      // with a result
  const TaskView* baseline = nullptr;  // of the same model; null when it has no result
  bool is_perplexity = false;
  double score = 0;  // share of right answers, or ln of the perplexity
  // The same with no gain over the baseline: compression teaches nothing, so a gain is chance or bias.
  double capped = 0;
};

struct Candidate {
  const ModelView* model = nullptr;
  const VariantView* variant = nullptr;
  Figure size, memory, decode;
  std::vector<TaskScore> scores;  // of the tasks that have one
  std::vector<Check> checks;      // of every limit; a task without a score is a missing check
  bool on_front = false;  // no other is at least as good in score, size, memory and speed, and better in one

  std::string label() const;  // "llama-mini gptq g64"
  bool feasible() const;
  bool narrowly_infeasible() const;              // each check that fails, fails narrowly
  double excess() const;                         // the sum over its checks
  std::optional<double> mean_accuracy() const;   // of the capped scores; none without accuracies
  std::optional<double> mean_log_ratio() const;  // ln of perplexity over the baseline's, capped at 0
};

// The tasks that count: those of the specification, or all. Throws UsageError for a task or model that the
// study does not have, and for a limit that no task can be held against.
std::vector<std::string> tasks_that_count(const StudyView& study, const Specification& spec);

// Every configuration of the models that count, in the study's order. Views into `study`.
std::vector<Candidate> candidates_of(const StudyView& study, const Specification& spec,
                                     const std::vector<std::string>& tasks);

}  // namespace nibble::report
