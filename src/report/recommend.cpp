#include "report/recommend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "report/format.h"

namespace nibble::report {
namespace {

// Sizes and peaks closer than this count as the same: no deployment is decided by it.
constexpr double kSameSize = 0.01, kSameMemory = 0.02;

struct Choice {
  size_t choice = 0, leader = 0;    // indices into the candidates
  std::vector<size_t> tied, equal;  // likewise
  std::vector<Against> against;     // by candidate
};

const Figure& preferred_figure(const Candidate& c, Prefer prefer) {
  return prefer == Prefer::kSize ? c.size : prefer == Prefer::kMemory ? c.memory : c.decode;
}

// Lower is better; infinite where it was not measured.
double cost(const Candidate& c, Prefer prefer) {
  const Figure& figure = preferred_figure(c, prefer);
  if (!figure.known()) return std::numeric_limits<double>::infinity();
  return prefer == Prefer::kSpeed ? -figure.value : figure.value;
}

bool same_cost(const Candidate& a, const Candidate& b, Prefer prefer) {
  const Figure &x = preferred_figure(a, prefer), &y = preferred_figure(b, prefer);
  if (!x.known() || !y.known()) return x.known() == y.known();
  if (prefer == Prefer::kSpeed) {  // the ranges are ±2 sd; those of a difference add in squares
    const double spread = std::hypot(x.high - x.low, y.high - y.low) / 2;
    return std::abs(x.value - y.value) <= spread;
  }
  return std::abs(x.value - y.value) <=
         (prefer == Prefer::kSize ? kSameSize : kSameMemory) * std::min(x.value, y.value);
}

// The rule, over the candidates of these indices (not empty).
Choice choose(const std::vector<Candidate>& all, const std::vector<size_t>& indices,
              const Specification& spec, Comparisons& comparisons) {
  std::vector<const Candidate*> candidates;
  for (const size_t i : indices) candidates.push_back(&all[i]);
  Choice result;
  std::vector<Against> against;
  const size_t leader = find_leader(candidates, spec, comparisons, against);
  std::vector<size_t> as_good;  // into `candidates`
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Standing standing = against[i].overall();
    if (i == leader || standing == Standing::kSame || standing == Standing::kBetter) as_good.push_back(i);
  }
  const auto cheapest = *std::min_element(as_good.begin(), as_good.end(), [&](size_t a, size_t b) {
    return cost(*candidates[a], spec.prefer) < cost(*candidates[b], spec.prefer);
  });
  size_t chosen = cheapest;
  for (const size_t i : as_good) {
    if (same_cost(*candidates[i], *candidates[cheapest], spec.prefer) &&
        scores_higher(*candidates[i], *candidates[chosen]))
      chosen = i;
  }
  result.choice = indices[chosen];
  result.leader = indices[leader];
  for (const size_t i : as_good) {
    if (i == chosen) continue;
    result.tied.push_back(indices[i]);
    if (same_cost(*candidates[i], *candidates[chosen], spec.prefer)) result.equal.push_back(indices[i]);
  }
  result.against.resize(all.size());
  for (size_t i = 0; i < candidates.size(); ++i) result.against[indices[i]] = std::move(against[i]);
  return result;
}

double score_on(const Candidate& c, const std::string& task) {
  for (const TaskScore& s : c.scores) {
    if (s.task == task) return s.score;
  }
  return 0;
}

// What TaskStanding::loss is a share of.
double best_capped(const Candidate& a, const Candidate& b, const std::string& task) {
  double best = 0;
  for (const Candidate* c : {&a, &b}) {
    for (const TaskScore& s : c->scores) {
      if (s.task == task) best = std::max(best, s.capped);
    }
  }
  return best;
}

// The limits of loss as `c` would just meet them: a run that lets it in does not count its loss either.
Specification as_if_met(Specification spec, const Candidate& c) {
  for (const Check& check : c.checks) {
    if (check.status != Status::kFailsNarrowly) continue;
    if (check.key == "min_accuracy_kept")
      spec.min_accuracy_kept = std::max(0.0, std::min(*spec.min_accuracy_kept, check.figure.value));
    if (check.key == "max_perplexity_ratio")
      spec.max_perplexity_ratio = std::max(*spec.max_perplexity_ratio, check.figure.value);
  }
  return spec;
}

// What would be chosen if the narrow checks fell the other way: those that fail narrowly let in, or the
// choice left out because it meets its limits narrowly.
std::vector<size_t> overturning(const Recommendation& r, const std::vector<size_t>& feasible,
                                Comparisons& comparisons) {
  std::vector<size_t> others;
  const auto add = [&](size_t i) {
    if (i != *r.choice && std::find(others.begin(), others.end(), i) == others.end()) others.push_back(i);
  };
  for (size_t i = 0; i < r.candidates.size(); ++i) {
    if (!r.candidates[i].narrowly_infeasible()) continue;
    std::vector<size_t> with = feasible;
    with.push_back(i);
    std::sort(with.begin(), with.end());
    add(choose(r.candidates, with, as_if_met(r.spec, r.candidates[i]), comparisons).choice);
  }
  const auto& checks = r.candidates[*r.choice].checks;
  const bool narrow = std::any_of(checks.begin(), checks.end(),
                                  [](const Check& c) { return c.status == Status::kMeetsNarrowly; });
  std::vector<size_t> without = feasible;
  without.erase(std::find(without.begin(), without.end(), *r.choice));
  if (narrow && !without.empty()) add(choose(r.candidates, without, r.spec, comparisons).choice);
  return others;
}

// Which of those as good another run could put first: it costs the same, or the interval of its difference to
// the choice reaches beyond what does not matter.
void find_rivals(Recommendation& r, Comparisons& comparisons) {
  std::vector<const Candidate*> set = {&r.candidates[*r.choice]};
  for (const size_t i : r.tied) set.push_back(&r.candidates[i]);
  const auto against = compare_with_leader(set, 0, r.spec, comparisons);
  for (size_t k = 1; k < set.size(); ++k) {
    const size_t i = r.tied[k - 1];
    bool rival = std::find(r.equal.begin(), r.equal.end(), i) != r.equal.end();
    for (const TaskStanding& s : against[k].tasks) {
      if (!s.unknown.empty()) continue;
      // Without any flip the interval is [0, 0], which says less than the number of rows does.
      const bool no_flips = s.ci_low == 0 && s.ci_high == 0;
      const double gain = s.is_ratio ? -s.difference : s.difference;
      const double spread = no_flips     ? s.smallest_detectable
                            : s.is_ratio ? s.difference - s.ci_low
                                         : s.ci_high - s.difference;
      // What lies above the rivals' own baselines is no gain to be had.
      const double counted = s.is_ratio ? -s.loss : -s.loss * best_capped(*set[0], *set[k], s.task);
      const double high = std::min(gain, counted) + spread;
      const double matters = s.is_ratio ? std::log1p(r.spec.perplexity_tolerance())
                                        : r.spec.accuracy_tolerance() * score_on(*set[0], s.task);
      if (high <= matters) continue;
      rival = true;
      double& unseen = s.is_ratio ? r.unseen_ratio : r.unseen_accuracy;
      unseen = std::max(unseen, std::isnan(high) ? std::numeric_limits<double>::infinity() : high);
    }
    if (rival) r.rivals.push_back(i);
  }
  std::stable_partition(r.rivals.begin(), r.rivals.end(), [&](size_t i) {
    return std::find(r.equal.begin(), r.equal.end(), i) != r.equal.end();
  });
}

// Critical issues whose evidence is this configuration, on what counts: one line a rule.
std::vector<Warning> warnings_about(const CriticalIssues& issues, const Candidate& c,
                                    const std::vector<std::string>& tasks) {
  std::vector<Warning> mine;
  for (const Issue& issue : issues.issues) {
    if (issue.where != c.model->name && !issue.where.starts_with(c.model->name + " ")) continue;
    std::vector<std::string> figures;
    for (const Evidence& e : issue.evidence) {
      const std::string label = c.variant->label();
      const std::string task = e.cell.starts_with(label + ", ") ? e.cell.substr(label.size() + 2) : "";
      const bool counts =
          e.cell == label || task == kBench || std::find(tasks.begin(), tasks.end(), task) != tasks.end();
      if (counts) figures.push_back((task.empty() ? "" : task + ": ") + e.figure);
    }
    if (!figures.empty())
      mine.push_back({issue.rule, issue.title, fmt::format("{}", fmt::join(figures, "; "))});
  }
  return mine;
}

// `ratio` of what is preferred: "16.1 % larger", "3.3 times the memory", "5.0 % slower".
std::string more_text(double ratio, Prefer prefer) {
  if (prefer == Prefer::kSpeed) return fmt::format("{} % slower", percent(1 - ratio));
  if (ratio >= 2) return fmt::format("but {} times the {}", fixed(ratio, 1), prefer_name(prefer));
  return prefer == Prefer::kSize ? fmt::format("but {} % larger", percent(ratio - 1))
                                 : fmt::format("but {} % more memory", percent(ratio - 1));
}

std::optional<size_t> nearest(const std::vector<Candidate>& candidates) {
  std::optional<size_t> best;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (std::isinf(candidates[i].excess())) continue;
    if (!best || candidates[i].excess() < candidates[*best].excess()) best = i;
  }
  return best;
}

}  // namespace

Recommendation recommend(const StudyView& study, const CriticalIssues& issues, const Specification& spec) {
  spec.validate();
  Recommendation r;
  r.spec = spec;
  r.tasks = tasks_that_count(study, spec);
  r.candidates = candidates_of(study, spec, r.tasks);
  if (r.candidates.empty() || r.tasks.empty())
    fail("nothing to choose from: the study has no model with a task; nibble study measures some");
  r.against.resize(r.candidates.size());
  std::vector<size_t> feasible, quantized;
  for (size_t i = 0; i < r.candidates.size(); ++i) {
    if (!r.candidates[i].feasible()) continue;
    feasible.push_back(i);
    if (!r.candidates[i].variant->variant.is_baseline()) quantized.push_back(i);
  }
  if (feasible.empty()) {
    r.nearest = nearest(r.candidates);
    return r;
  }
  Comparisons comparisons;
  Choice choice = choose(r.candidates, feasible, spec, comparisons);
  r.choice = choice.choice;
  r.leader = choice.leader;
  r.tied = std::move(choice.tied);
  r.equal = std::move(choice.equal);
  r.against = std::move(choice.against);
  find_rivals(r, comparisons);
  r.overturning = overturning(r, feasible, comparisons);
  if (r.candidates[*r.choice].variant->variant.is_baseline() && !quantized.empty())
    r.best_quantized = choose(r.candidates, quantized, spec, comparisons).choice;
  r.warnings = warnings_about(issues, r.candidates[*r.choice], r.tasks);
  return r;
}

std::vector<size_t> runners_up(const Recommendation& r) {
  std::vector<size_t> others;
  for (size_t i = 0; i < r.candidates.size(); ++i) {
    if (i != r.choice) others.push_back(i);
  }
  const auto rank = [&](size_t i) {
    const Candidate& c = r.candidates[i];
    const bool tied = std::find(r.tied.begin(), r.tied.end(), i) != r.tied.end();
    const TaskStanding* worst = r.against[i].worst();
    return std::tuple(!tied, !c.feasible(), c.excess(), worst ? std::abs(worst->loss) : 0.0,
                      cost(c, r.spec.prefer));
  };
  std::stable_sort(others.begin(), others.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
  return others;
}

std::string why_not(const Recommendation& r, size_t i) {
  const Candidate& c = r.candidates[i];
  if (!c.feasible()) {
    std::vector<std::string> fails;
    for (const Check& check : c.checks) {
      if (check.status == Status::kMissing) fails.push_back(check.text());
      if (check.status == Status::kFails || check.status == Status::kFailsNarrowly)
        fails.push_back(fmt::format("{}, asked {}", check.text(), check.limit_text()));
    }
    return fmt::format("{}", fmt::join(fails, "; "));
  }
  if (!r.choice || i == *r.choice) return "";
  if (std::find(r.equal.begin(), r.equal.end(), i) != r.equal.end())
    return fmt::format("as good, and the same in {}", prefer_name(r.spec.prefer));
  if (std::find(r.tied.begin(), r.tied.end(), i) != r.tied.end()) {
    const double mine = cost(c, r.spec.prefer), best = cost(r.candidates[*r.choice], r.spec.prefer);
    if (std::isinf(mine))
      return fmt::format("as good, but its {} was not measured", prefer_name(r.spec.prefer));
    return "as good, " + more_text(mine / best, r.spec.prefer);
  }
  std::vector<std::string> parts;
  for (const Standing which : {Standing::kWorse, Standing::kBetter, Standing::kUnknown}) {
    for (const TaskStanding& s : r.against[i].tasks) {
      if (s.standing != which) continue;
      if (which == Standing::kUnknown) {
        parts.push_back(fmt::format("{} does not compare: {}", s.task, s.unknown));
        continue;
      }
      const auto print = [&](double v) { return s.is_ratio ? fixed(std::exp(v), 3) : percent(v, true); };
      parts.push_back(fmt::format("{} on {}: {}{} {}", standing_name(which), s.task,
                                  s.bits_per_byte ? "bits per byte ×"
                                  : s.is_ratio    ? "×"
                                                  : "",
                                  print(s.difference), interval(print(s.ci_low), print(s.ci_high))));
    }
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace nibble::report
