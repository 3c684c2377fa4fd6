#include "report/recommend_quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "eval/paired.h"

namespace nibble::report {
namespace {

constexpr const char* kAcrossTokenizers = "bits_per_byte";

const TaskScore* find(const Candidate& c, const std::string& task) {
  const auto found =
      std::find_if(c.scores.begin(), c.scores.end(), [&](const TaskScore& s) { return s.task == task; });
  return found == c.scores.end() ? nullptr : &*found;
}

// Perplexities of different tokenizers: bits per byte of the same text, unpaired, since windows differ.
void compare_texts(const TaskScore& leader, const TaskScore& other, TaskStanding& s) {
  const TaskResult &a = *leader.cell->result, &b = *other.cell->result;
  const auto in_a = a.metrics.find(kAcrossTokenizers), in_b = b.metrics.find(kAcrossTokenizers);
  if (a.data_sha256 != b.data_sha256 || in_a == a.metrics.end() || in_b == b.metrics.end()) {
    s.unknown = "no bits per byte of the same text, and perplexities of different models do not compare";
    return;
  }
  const double va = in_a->second.value, vb = in_b->second.value;
  const double ea = in_a->second.stderr_ / va, eb = in_b->second.stderr_ / vb;
  const double error = std::sqrt(ea * ea + eb * eb);
  if (!(va > 0 && vb > 0 && error > 0)) {
    s.unknown = "bits per byte without an error to judge by";
    return;
  }
  s.difference = std::log(vb / va);
  s.loss = s.difference;
  s.ci_low = s.difference - kZ975 * error;
  s.ci_high = s.difference + kZ975 * error;
  s.smallest_detectable = kDetectableErrors * error;
  s.p = std::erfc(std::abs(s.difference) / error / std::sqrt(2.0));
}

TaskStanding compare_task(const Candidate& leader, const Candidate& other, const std::string& task,
                          Comparisons& comparisons) {
  TaskStanding s;
  s.task = task;
  const TaskScore *a = find(leader, task), *b = find(other, task);
  if (!a || !b) {
    s.unknown = "no score";
    return s;
  }
  s.is_ratio = a->is_perplexity;
  if (a->is_perplexity && b->is_perplexity && leader.model != other.model) {
    s.bits_per_byte = true;
    compare_texts(*a, *b, s);
    return s;
  }
  const Comparison& c = comparisons.of(*a, *b);
  if (!c.comparable()) {
    s.unknown = c.not_comparable;
    return s;
  }
  s.difference = c.difference;
  s.ci_low = c.ci_low;
  s.ci_high = c.ci_high;
  s.smallest_detectable = c.smallest_detectable;
  s.p = c.p;
  s.loss = s.is_ratio                           ? b->capped - a->capped
           : std::max(a->capped, b->capped) > 0 ? (a->capped - b->capped) / std::max(a->capped, b->capped)
                                                : 0;
  return s;
}

void judge(TaskStanding& s, const Specification& spec) {
  if (!s.unknown.empty()) return;
  const double tolerance = s.is_ratio ? std::log1p(spec.perplexity_tolerance()) : spec.accuracy_tolerance();
  const double sign = s.is_ratio ? 1 : -1;  // of a loss in `difference`
  const bool measurable = (s.ci_low > 0 || s.ci_high < 0) && s.p_holm < kSignificance;
  s.standing = !measurable || std::abs(s.loss) <= tolerance + kRounding ? Standing::kSame
               : s.loss > 0 && sign * s.difference > 0                  ? Standing::kWorse
               : s.loss < 0 && sign * s.difference < 0                  ? Standing::kBetter
                                                                        : Standing::kSame;
}

}  // namespace

bool scores_higher(const Candidate& a, const Candidate& b) {
  const auto key = [](const Candidate& c) {
    return std::tuple(-c.mean_accuracy().value_or(0), c.mean_log_ratio().value_or(0),
                      c.size.known() ? c.size.value : std::numeric_limits<double>::infinity());
  };
  return key(a) < key(b);
}

std::string_view standing_name(Standing standing) {
  switch (standing) {
    case Standing::kSame:
      return "as good";
    case Standing::kBetter:
      return "better";
    case Standing::kWorse:
      return "worse";
    case Standing::kTrade:
      return "better on one task, worse on another";
    case Standing::kUnknown:
      break;
  }
  return "not comparable";
}

Standing Against::overall() const {
  bool better = false, worse = false;
  for (const TaskStanding& s : tasks) {
    if (s.standing == Standing::kUnknown) return Standing::kUnknown;
    better = better || s.standing == Standing::kBetter;
    worse = worse || s.standing == Standing::kWorse;
  }
  if (better && worse) return Standing::kTrade;
  return worse ? Standing::kWorse : better ? Standing::kBetter : Standing::kSame;
}

const TaskStanding* Against::worst() const {
  const TaskStanding* worst = nullptr;
  for (const TaskStanding& s : tasks) {
    if (s.standing == Standing::kWorse && (!worst || s.loss > worst->loss)) worst = &s;
  }
  return worst;
}

const Comparison& Comparisons::of(const TaskScore& first, const TaskScore& second) {
  if (second.baseline == first.cell) return second.cell->to_baseline;
  const auto [at, is_new] = known_.try_emplace({first.cell, second.cell});
  if (is_new)
    at->second = compare(*first.cell->result, first.cell->rows, *second.cell->result, second.cell->rows);
  return at->second;
}

std::vector<Against> compare_with_leader(const std::vector<const Candidate*>& candidates, size_t leader,
                                         const Specification& spec, Comparisons& comparisons) {
  std::vector<Against> against(candidates.size());
  std::vector<TaskStanding*> family;
  std::vector<double> p;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (i == leader) continue;
    for (const TaskScore& score : candidates[leader]->scores)
      against[i].tasks.push_back(compare_task(*candidates[leader], *candidates[i], score.task, comparisons));
  }
  for (Against& a : against) {
    for (TaskStanding& s : a.tasks) {
      if (!s.unknown.empty()) continue;
      family.push_back(&s);
      p.push_back(s.p);
    }
  }
  const std::vector<double> corrected = holm(p);
  for (size_t i = 0; i < family.size(); ++i) {
    family[i]->p_holm = corrected[i];
    judge(*family[i], spec);
  }
  return against;
}

size_t find_leader(const std::vector<const Candidate*>& candidates, const Specification& spec,
                   Comparisons& comparisons, std::vector<Against>& against) {
  size_t leader = 0;
  for (size_t i = 1; i < candidates.size(); ++i) {
    if (scores_higher(*candidates[i], *candidates[leader])) leader = i;
  }
  std::set<size_t> led = {leader};
  for (;;) {
    against = compare_with_leader(candidates, leader, spec, comparisons);
    // Of several that beat it, the one with the best scores; one that has led before would go in circles.
    std::optional<size_t> next;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (i == leader || led.contains(i) || against[i].overall() != Standing::kBetter) continue;
      if (!next || scores_higher(*candidates[i], *candidates[*next])) next = i;
    }
    if (!next) return leader;
    leader = *next;
    led.insert(leader);
  }
}

}  // namespace nibble::report
