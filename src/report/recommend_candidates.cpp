#include "report/recommend_candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "report/format.h"
#include "report/measures.h"
#include "report/recommend_prediction.h"

namespace nibble::report {
namespace {

// How far a second run may land from a single one; nothing stored says it, so these are judgements.
constexpr double kOneRunMemory = 0.02;
constexpr double kOneRunTime = 0.10;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Figure no_figure(std::string reason) {
  Figure figure;
  figure.missing = std::move(reason);
  return figure;
}

Figure measured(double value, double low, double high, std::string basis) {
  // An interval that cannot be known could be anything.
  return {
      value, std::isnan(low) ? -kInfinity : low, std::isnan(high) ? kInfinity : high, "", std::move(basis),
      false};
}

Figure one_run(double value, double spread, std::string basis) {
  return measured(value, value * (1 - spread), value * (1 + spread), std::move(basis));
}

// Why a variant lacks what its cells would have stored.
std::string reason_or(const TaskView* cell, std::string otherwise) {
  return cell && !cell->missing.empty() ? cell->missing : otherwise;
}

Figure size_of(const VariantView& variant) {
  if (variant.facts && variant.facts->file_bytes > 0) {
    const auto bytes = static_cast<double>(variant.facts->file_bytes);
    return measured(bytes, bytes, bytes, "the model's files");
  }
  return no_figure(
      reason_or(variant.tasks.empty() ? nullptr : &variant.tasks.front(), "file size not stored"));
}

// The cells whose process a deployment resembles: a perplexity is nobody's workload unless it is asked for.
std::vector<const TaskView*> workload(const VariantView& variant, const Specification& spec,
                                      const std::vector<std::string>& tasks) {
  std::vector<const TaskView*> all, texts;
  for (const TaskView& cell : variant.tasks) {
    const bool counts = cell.task == kBench ? spec.tasks.empty()
                                            : std::find(tasks.begin(), tasks.end(), cell.task) != tasks.end();
    if (!counts) continue;
    (cell.result && is_perplexity(*cell.result) && spec.tasks.empty() ? texts : all).push_back(&cell);
  }
  return all.empty() ? texts : all;
}

Figure memory_of(const VariantView& variant, const std::vector<const TaskView*>& cells) {
  const TaskView* highest = nullptr;
  for (const TaskView* cell : cells) {
    if (!cell->missing.empty()) return no_figure(fmt::format("{}: {}", cell->task, cell->missing));
    if (!cell->memory || cell->memory->peak_rss == 0)
      return no_figure(fmt::format("{}: peak memory not stored", cell->task));
    if (!highest || cell->memory->peak_rss > highest->memory->peak_rss) highest = cell;
  }
  if (!highest) return no_figure(fmt::format("no cell of {} measured it", variant.label()));
  return one_run(static_cast<double>(highest->memory->peak_rss), kOneRunMemory,
                 fmt::format("peak of the process, highest in {}", highest->task));
}

Figure decode_of(const VariantView& variant, const std::vector<const TaskView*>& cells) {
  if (const auto rate = bench_rate(variant, "tg")) {
    return measured(rate->mean, rate->mean - 2 * rate->sd, rate->mean + 2 * rate->sd,
                    "bench, one sequence at a time");
  }
  if (const TaskView* bench = variant.find(kBench); bench && !bench->missing.empty())
    return no_figure(fmt::format("bench: {}", bench->missing));
  for (const TaskView* cell : cells) {
    if (cell->result && cell->result->output_tokens_per_s > 0)
      return one_run(cell->result->output_tokens_per_s, kOneRunTime, "over all of " + cell->task);
  }
  return no_figure("no generation measured: neither bench nor a task that generates");
}

void judge(Check& check) {
  const Figure& f = check.figure;
  if (!f.known()) {
    check.status = Status::kMissing;
    return;
  }
  const double slack = kRounding * std::abs(check.limit);
  const auto within = [&](double value) {
    return check.at_most ? value <= check.limit + slack : value >= check.limit - slack;
  };
  const double worst = check.at_most ? f.high : f.low, best = check.at_most ? f.low : f.high;
  check.status = within(f.value) ? (within(worst) ? Status::kMeets : Status::kMeetsNarrowly)
                                 : (within(best) ? Status::kFailsNarrowly : Status::kFails);
}

class Checks {
 public:
  explicit Checks(std::vector<Check>& checks) : checks_(checks) {}
  void add(const char* key, std::string name, std::string task, Unit unit, const std::optional<double>& limit,
           bool at_most, Figure figure) {
    if (!limit) return;
    Check& check = checks_.emplace_back();
    check.key = key;
    check.name = std::move(name);
    check.task = std::move(task);
    check.unit = unit;
    check.limit = *limit;
    check.at_most = at_most;
    check.figure = std::move(figure);
    judge(check);
  }
  void add_missing(const std::string& task, std::string reason) {
    Check& check = checks_.emplace_back();
    check.key = "score";
    check.name = "score";
    check.task = task;
    check.figure = no_figure(std::move(reason));
  }

 private:
  std::vector<Check>& checks_;
};

Figure latency_of(const TaskView& cell) {
  const double p95 = cell.result->latency_ms.p95;
  if (!(p95 > 0)) return no_figure("not stored");
  return one_run(p95, kOneRunTime, "95 % of the responses");
}

Figure accuracy_of(const TaskView& cell) {
  const Metric& m = *cell.primary();
  return measured(m.value, m.ci_low, m.ci_high, "95 % interval");
}

// Of the baseline's accuracy, by the paired interval of the difference.
Figure accuracy_kept(const TaskScore& score, bool is_baseline) {
  if (is_baseline) return measured(1, 1, 1, "itself");
  if (!score.baseline) return no_figure("the baseline has no result");
  const Comparison& c = score.cell->to_baseline;
  if (!c.comparable()) return no_figure(c.not_comparable);
  const double base = score.baseline->primary()->value;
  if (!(base > 0)) return no_figure("the baseline has nothing right");
  // Without any flip the interval is [0, 0], which says less than the number of rows does.
  const bool no_flips = c.right_to_wrong + c.wrong_to_right == 0;
  const double low = no_flips ? -c.smallest_detectable : c.ci_low;
  const double high = no_flips ? c.smallest_detectable : c.ci_high;
  return measured(1 + c.difference / base, 1 + low / base, 1 + high / base, "paired 95 % interval");
}

Figure perplexity_ratio(const TaskScore& score, bool is_baseline) {
  if (is_baseline) return measured(1, 1, 1, "itself");
  const Comparison& c = score.cell->to_baseline;
  if (!c.comparable()) return no_figure(c.not_comparable);
  return measured(std::exp(c.difference), std::exp(c.ci_low), std::exp(c.ci_high), "paired 95 % interval");
}

std::optional<TaskScore> score_of(const ModelView& model, const VariantView& variant,
                                  const std::string& task) {
  TaskScore score;
  score.task = task;
  score.cell = variant.find(task);
  if (!score.cell || !score.cell->primary() || !std::isfinite(score.cell->primary()->value))
    return std::nullopt;
  const VariantView* baseline = model.baseline();
  if (const TaskView* cell = baseline ? baseline->find(task) : nullptr; cell && cell->primary())
    score.baseline = cell;
  score.is_perplexity = is_perplexity(*score.cell->result);
  const double value = score.cell->primary()->value;
  score.score = score.is_perplexity ? std::log(value) : value;
  score.capped = score.score;
  if (score.baseline) {
    const double base = score.baseline->primary()->value;
    score.capped = score.is_perplexity ? std::max(score.score, std::log(base)) : std::min(value, base);
  }
  return score;
}

void add_checks(Candidate& c, const Specification& spec, const std::vector<const TaskView*>& cells) {
  Checks checks(c.checks);
  const bool is_baseline = c.variant->variant.is_baseline();
  checks.add("max_size", "size", "", Unit::kBytes, spec.max_size, true, c.size);
  checks.add("max_memory", "peak memory", "", Unit::kBytes, spec.max_memory, true, c.memory);
  checks.add("memory", "peak memory there", "", Unit::kBytes, spec.memory, true, c.memory);
  checks.add("min_throughput", "decode speed", "", Unit::kTokensPerSecond, spec.min_throughput, false,
             c.decode);
  for (const TaskView* cell : cells) {
    if (cell->result)
      checks.add("max_latency", "latency", cell->task, Unit::kMilliseconds, spec.max_latency, true,
                 latency_of(*cell));
  }
  for (const TaskScore& score : c.scores) {
    if (score.is_perplexity) {
      checks.add("max_perplexity_ratio", "perplexity ratio", score.task, Unit::kRatio,
                 spec.max_perplexity_ratio, true, perplexity_ratio(score, is_baseline));
      continue;
    }
    checks.add("min_accuracy", "accuracy", score.task, Unit::kShare, spec.min_accuracy, false,
               accuracy_of(*score.cell));
    checks.add("min_accuracy_kept", "accuracy kept", score.task, Unit::kShare, spec.min_accuracy_kept, false,
               accuracy_kept(score, is_baseline));
  }
}

Candidate candidate(const ModelView& model, const VariantView& variant, const Specification& spec,
                    const std::vector<std::string>& tasks) {
  Candidate c;
  c.model = &model;
  c.variant = &variant;
  const auto cells = workload(variant, spec, tasks);
  c.size = size_of(variant);
  c.memory = memory_of(variant, cells);
  c.decode = decode_of(variant, cells);
  if (spec.other_machine()) {
    c.memory = predict_memory(c.memory);
    c.decode = predict_decode(variant, spec.bandwidth);
  }
  for (const std::string& task : tasks) {
    if (auto score = score_of(model, variant, task)) {
      c.scores.push_back(std::move(*score));
      continue;
    }
    const TaskView* cell = variant.find(task);
    Checks(c.checks).add_missing(task, !cell ? "not in the plan" : reason_or(cell, "no score stored"));
  }
  add_checks(c, spec, cells);
  return c;
}

// One axis of the front, higher is better; NaN where it is unknown.
std::vector<double> axes_of(const Candidate& c) {
  std::vector<double> axes = {-c.size.value, -c.memory.value, c.decode.value};
  if (const auto accuracy = c.mean_accuracy()) axes.push_back(*accuracy);
  if (const auto ratio = c.mean_log_ratio()) axes.push_back(-*ratio);
  return axes;
}

void mark_front(std::vector<Candidate>& candidates, size_t tasks) {
  std::vector<std::vector<double>> axes;
  for (const Candidate& c : candidates) axes.push_back(axes_of(c));
  const auto complete = [&](size_t i) {
    return candidates[i].scores.size() == tasks &&
           std::none_of(axes[i].begin(), axes[i].end(), [](double v) { return std::isnan(v); });
  };
  const auto dominates = [&](size_t a, size_t b) {
    bool better = false;
    for (size_t k = 0; k < axes[a].size(); ++k) {
      if (axes[a][k] < axes[b][k]) return false;
      better = better || axes[a][k] > axes[b][k];
    }
    return better;
  };
  for (size_t i = 0; i < candidates.size(); ++i) {
    bool on_front = complete(i);
    for (size_t j = 0; j < candidates.size() && on_front; ++j) {
      if (complete(j) && axes[j].size() == axes[i].size()) on_front = !dominates(j, i);
    }
    candidates[i].on_front = on_front;
  }
}

bool has_kind(const StudyView& study, const std::vector<std::string>& tasks, bool perplexity) {
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      for (const std::string& task : tasks) {
        const TaskView* cell = variant.find(task);
        if (cell && cell->result && is_perplexity(*cell->result) == perplexity) return true;
      }
    }
  }
  return false;
}

}  // namespace

std::string figure_text(double value, Unit unit) {
  switch (unit) {
    case Unit::kBytes:
      return bytes_text(value);
    case Unit::kTokensPerSecond:
      return three_digits(value) + " tokens/s";
    case Unit::kMilliseconds:
      return three_digits(value) + " ms";
    case Unit::kShare:
      return percent(value) + " %";
    case Unit::kRatio:
      break;
  }
  return "×" + fixed(value, 3);
}

double Check::excess() const {
  if (meets(status)) return 0;
  if (!figure.known()) return kInfinity;
  return at_most ? figure.value / limit - 1 : 1 - figure.value / limit;
}

std::string Check::limit_text() const {
  return fmt::format("at {} {}", at_most ? "most" : "least", figure_text(limit, unit));
}

std::string Check::full_name() const { return task.empty() ? name : fmt::format("{} on {}", name, task); }

std::string Check::text() const {
  if (status == Status::kMissing)
    return fmt::format("{} missing ({})", full_name(), one_line(figure.missing));
  return fmt::format("{} {}{}{}", full_name(), figure_text(figure.value, unit),
                     figure.predicted ? " predicted" : "",
                     status == Status::kFailsNarrowly   ? " (within its uncertainty)"
                     : status == Status::kMeetsNarrowly ? " (narrowly)"
                                                        : "");
}

std::string Candidate::label() const { return fmt::format("{} {}", model->name, variant->label()); }

bool Candidate::feasible() const {
  return std::all_of(checks.begin(), checks.end(), [](const Check& c) { return meets(c.status); });
}

bool Candidate::narrowly_infeasible() const {
  return !feasible() && std::all_of(checks.begin(), checks.end(), [](const Check& c) {
    return meets(c.status) || c.status == Status::kFailsNarrowly;
  });
}

double Candidate::excess() const {
  double sum = 0;
  for (const Check& check : checks) sum += check.excess();
  return sum;
}

std::optional<double> Candidate::mean_accuracy() const {
  double sum = 0, n = 0;
  for (const TaskScore& s : scores) {
    if (s.is_perplexity) continue;
    sum += s.capped;
    ++n;
  }
  return n > 0 ? std::optional(sum / n) : std::nullopt;
}

std::optional<double> Candidate::mean_log_ratio() const {
  double sum = 0, n = 0;
  for (const TaskScore& s : scores) {
    if (!s.is_perplexity) continue;
    sum += s.baseline ? s.capped - std::log(s.baseline->primary()->value) : s.capped;
    ++n;
  }
  return n > 0 ? std::optional(sum / n) : std::nullopt;
}

std::vector<std::string> tasks_that_count(const StudyView& study, const Specification& spec) {
  std::vector<std::string> models;
  for (const ModelView& model : study.models) models.push_back(model.name);
  const auto require = [](const char* option, const auto& wanted, const auto& known) {
    for (const std::string& name : wanted) {
      if (std::find(known.begin(), known.end(), name) == known.end())
        throw UsageError(fmt::format("{}: '{}' is not in this study; it has {}", option, one_line(name),
                                     fmt::join(known, ", ")));
    }
  };
  require("--model", spec.models, models);
  require("--task", spec.tasks, study.tasks);
  const auto& tasks = spec.tasks.empty() ? study.tasks : spec.tasks;
  const bool accuracies = has_kind(study, tasks, false), texts = has_kind(study, tasks, true);
  if ((spec.min_accuracy_kept || spec.min_accuracy) && texts && !accuracies) {
    throw UsageError(fmt::format("--{}: {} has a perplexity, no accuracy; use --max-perplexity-ratio",
                                 spec.min_accuracy ? "min-accuracy" : "min-accuracy-kept",
                                 fmt::join(tasks, ", ")));
  }
  if (spec.max_perplexity_ratio && accuracies && !texts) {
    throw UsageError(
        fmt::format("--max-perplexity-ratio: {} has an accuracy, no perplexity; use "
                    "--min-accuracy-kept",
                    fmt::join(tasks, ", ")));
  }
  return tasks;
}

std::vector<Candidate> candidates_of(const StudyView& study, const Specification& spec,
                                     const std::vector<std::string>& tasks) {
  std::vector<Candidate> all;
  for (const ModelView& model : study.models) {
    const bool counts = spec.models.empty() ||
                        std::find(spec.models.begin(), spec.models.end(), model.name) != spec.models.end();
    if (!counts) continue;
    for (const VariantView& variant : model.variants) all.push_back(candidate(model, variant, spec, tasks));
  }
  mark_front(all, tasks.size());
  return all;
}

}  // namespace nibble::report
