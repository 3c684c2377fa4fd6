#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/format.h"
#include "report/recommend.h"
#include "report/text_table.h"

namespace nibble::report {
namespace {

constexpr size_t kLabelWidth = 10;
constexpr size_t kNarrowest = 80;
constexpr size_t kMostRunnersUp = 6;

class Lines {
 public:
  explicit Lines(size_t width) : width_(std::max(width, kNarrowest)) {}

  void plain(std::string_view text) {
    for (const std::string& line : wrap(one_line(text), width_)) out_ += line + "\n";
  }
  // "  memory    385.5 MB …", continued under the text.
  void labelled(std::string_view label, std::string_view text) {
    std::string head = fmt::format("  {:<{}}", label, kLabelWidth);
    for (const std::string& line : wrap(one_line(text), width_ - 2 - kLabelWidth)) {
      out_ += head + line + "\n";
      head.assign(2 + kLabelWidth, ' ');
    }
  }
  void table(const TextTable& table) { out_ += to_terminal(table, width_); }
  void blank() { out_ += "\n"; }
  std::string text() && { return std::move(out_); }

 private:
  const size_t width_;
  std::string out_;
};

// "A, B and 2 more".
std::string some_of(const Recommendation& r, const std::vector<size_t>& which) {
  constexpr size_t kNamed = 2;
  std::vector<std::string> names;
  for (size_t k = 0; k < which.size() && k < kNamed; ++k) names.push_back(r.candidates[which[k]].label());
  if (which.size() > kNamed)
    return fmt::format("{} and {} more", fmt::join(names, ", "), which.size() - kNamed);
  return fmt::format("{}", fmt::join(names, " and "));
}

std::string short_figure(const Figure& figure, Unit unit) {
  if (!figure.known()) return "missing";
  const std::string text = figure_text(figure.value, unit);
  return figure.predicted && unit == Unit::kTokensPerSecond ? "~" + text : text;
}

// A text a limit, its tasks together: "accuracy kept on boolq, gsm8k at least 95.0 %", with what `figure`
// says of each task behind it.
template <typename FigureText>
std::vector<std::string> by_limit(const std::vector<const Check*>& checks, FigureText figure) {
  std::vector<std::string> texts;
  for (const Check* first : checks) {
    std::vector<std::string> tasks;
    for (const Check* check : checks) {
      if (check->key == first->key) tasks.push_back(check->task + figure(*check));
    }
    std::string text = first->name;
    if (!first->task.empty() || tasks.front() != "")
      text += fmt::format("{} {}", first->task.empty() ? "" : " on", fmt::join(tasks, ", "));
    text += " " + first->limit_text();
    if (std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(std::move(text));
  }
  return texts;
}

std::string asked_text(const Recommendation& r, const Candidate& example) {
  std::vector<const Check*> checks;
  for (const Check& check : example.checks) {
    if (check.key != "score") checks.push_back(&check);
  }
  const std::vector<std::string> limits = by_limit(checks, [](const Check&) { return std::string(); });
  const std::string rule = fmt::format(
      "{}the best scores on {}; of equals {}", limits.empty() ? "" : "then ", fmt::join(r.tasks, ", "),
      r.spec.prefer == Prefer::kSize     ? "the smallest"
      : r.spec.prefer == Prefer::kMemory ? "the one that needs the least memory"
                                         : "the fastest");
  if (limits.empty()) return "no limits: " + rule;
  return fmt::format("{}; {}", fmt::join(limits, ", "), rule);
}

// ", −70.3 % against its baseline", ", 4.1 times its baseline's"; nothing where there is none to compare
// with.
std::string against_baseline(const Figure& mine, Unit unit, const Figure* baseline) {
  if (!mine.known() || !baseline || !baseline->known() || !(baseline->value > 0)) return "";
  const double ratio = mine.value / baseline->value;
  if (unit == Unit::kTokensPerSecond) return fmt::format(", {} times its baseline's", fixed(ratio, 1));
  return fmt::format(", {} % against its baseline", percent(ratio - 1, true));
}

std::string figure_line(const Figure& figure, Unit unit, const Figure* baseline) {
  if (!figure.known()) return fmt::format("missing ({})", figure.missing);
  std::string text = figure_text(figure.value, unit);
  if (figure.predicted) text = "predicted: " + text;
  if (figure.predicted && figure.low != figure.high && unit == Unit::kTokensPerSecond)
    text += fmt::format(" ({} to {})", three_digits(figure.low), three_digits(figure.high));
  text += against_baseline(figure, unit, baseline);
  if (!figure.basis.empty() && unit != Unit::kBytes) text += fmt::format(" ({})", figure.basis);
  if (unit == Unit::kBytes && figure.basis.starts_with("peak")) text += fmt::format(" ({})", figure.basis);
  return text;
}

void list_others(Lines& lines, const Recommendation& r, const std::vector<size_t>& others) {
  if (others.empty()) return;
  TextTable table;
  table.heads = {{"Front"},
                 {"Configuration"},
                 {"Size", Align::kRight},
                 {"Memory", Align::kRight},
                 {"Decode", Align::kRight},
                 {"Why not"}};
  for (size_t k = 0; k < others.size() && k < kMostRunnersUp; ++k) {
    const Candidate& c = r.candidates[others[k]];
    table.rows.push_back({c.on_front ? "◆" : "", c.label(), short_figure(c.size, Unit::kBytes),
                          short_figure(c.memory, Unit::kBytes),
                          short_figure(c.decode, Unit::kTokensPerSecond), why_not(r, others[k])});
  }
  lines.blank();
  lines.table(table);
  if (others.size() > kMostRunnersUp)
    lines.plain(fmt::format("and {} more, all in --json", others.size() - kMostRunnersUp));
  lines.plain("◆ Pareto front: no other is at least as good in scores, size, memory and speed.");
}

void show_none(Lines& lines, const Recommendation& r) {
  if (!r.nearest) {
    lines.plain(
        "No configuration can be recommended: each lacks a measurement that the specification needs.");
  } else {
    const Candidate& c = r.candidates[*r.nearest];
    lines.plain(fmt::format("No configuration meets the specification. Nearest: {}.", c.label()));
    lines.blank();
    lines.labelled("fails", why_not(r, *r.nearest));
    if (c.narrowly_infeasible())
      lines.labelled("note",
                     "all that it fails lies within its uncertainty: more rows or another run could "
                     "show that it meets the specification");
    lines.labelled("size", figure_line(c.size, Unit::kBytes, nullptr));
    lines.labelled("memory", figure_line(c.memory, Unit::kBytes, nullptr));
    lines.labelled("decode", figure_line(c.decode, Unit::kTokensPerSecond, nullptr));
    lines.labelled("quality", quality_text(c));
  }
  std::vector<size_t> others = runners_up(r);
  if (r.nearest) others.erase(std::find(others.begin(), others.end(), *r.nearest));
  list_others(lines, r, others);
}

void show_choice(Lines& lines, const Recommendation& r) {
  const Candidate& c = r.candidates[*r.choice];
  const bool is_baseline = c.variant->variant.is_baseline();
  const auto found = std::find_if(r.candidates.begin(), r.candidates.end(), [&](const Candidate& o) {
    return o.model == c.model && o.variant->variant.is_baseline();
  });
  const Candidate* baseline = is_baseline || found == r.candidates.end() ? nullptr : &*found;
  const std::string tie = !r.rivals.empty() ? fmt::format(" It ties with {}.", some_of(r, r.rivals))
                          : !r.overturning.empty()
                              ? fmt::format(" Narrowly: it ties with {}.", some_of(r, r.overturning))
                              : "";
  lines.plain(fmt::format("Deploy {}{}.{}", c.label(), is_baseline ? ", not quantized" : "", tie));
  lines.blank();
  lines.labelled("asked", asked_text(r, c));
  lines.labelled("size", figure_line(c.size, Unit::kBytes, baseline ? &baseline->size : nullptr));
  lines.labelled("memory", figure_line(c.memory, Unit::kBytes, baseline ? &baseline->memory : nullptr));
  lines.labelled("decode",
                 figure_line(c.decode, Unit::kTokensPerSecond, baseline ? &baseline->decode : nullptr));
  lines.labelled("quality", quality_text(c));
  lines.labelled("why", why_text(r));
  lines.labelled("how sure", sure_text(r));
  if (r.best_quantized) {
    const Candidate& q = r.candidates[*r.best_quantized];
    lines.labelled("or",
                   fmt::format("{}, the best quantized one: size {}, memory {}, decode {}; {}", q.label(),
                               short_figure(q.size, Unit::kBytes), short_figure(q.memory, Unit::kBytes),
                               short_figure(q.decode, Unit::kTokensPerSecond), quality_text(q)));
  }
  for (const Warning& w : r.warnings) lines.labelled("beware", fmt::format("{}: {}", w.title, w.figures));
  list_others(lines, r, runners_up(r));
}

}  // namespace

// Losses first, then where nothing could be shown, and what could have been.
std::string quality_text(const Candidate& c) {
  if (c.variant->variant.is_baseline()) return "that of the baseline, which this is";
  std::vector<std::string> parts, none, detectable;
  for (const TaskScore& score : c.scores) {
    const Comparison& d = score.cell->to_baseline;
    if (!d.comparable()) {
      parts.push_back(fmt::format("{} not comparable with the baseline ({})", score.task, d.not_comparable));
    } else if (!d.survives_holm()) {
      none.push_back(score.task);
      detectable.push_back(detectable_text(d));
    } else if (d.is_ratio) {
      parts.push_back(fmt::format("perplexity on {} {}", score.task, difference_text(d)));
    } else {
      parts.push_back(fmt::format("{} {} points on {}",
                                  d.verdict == Verdict::kWorse ? "loses" : "improbably wins",
                                  difference_text(d), score.task));
    }
  }
  if (!none.empty()) {
    parts.push_back(fmt::format("no measurable difference to the baseline on {} (could have shown {})",
                                fmt::join(none, ", "), fmt::join(detectable, ", ")));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string why_text(const Recommendation& r) {
  const size_t feasible = static_cast<size_t>(std::count_if(r.candidates.begin(), r.candidates.end(),
                                                            [](const Candidate& c) { return c.feasible(); }));
  const std::string of =
      fmt::format("{} of {} meet the specification", feasible, counted(r.candidates.size(), "configuration"));
  if (feasible == 1)
    return fmt::format("the only one of {} that meets the specification", r.candidates.size());
  if (r.tied.empty()) return fmt::format("{}; no other of them is as good on every task", of);
  const std::string best = r.spec.prefer == Prefer::kSize     ? "smallest"
                           : r.spec.prefer == Prefer::kMemory ? "least demanding of memory"
                                                              : "fastest";
  return fmt::format("{}; {} cannot be told apart by their scores, {}", of, r.tied.size() + 1,
                     r.equal.empty() ? fmt::format("and this is the {} of them", best)
                                     : fmt::format("and this is among the {}", best));
}

std::string sure_text(const Recommendation& r) {
  std::vector<std::string> parts;
  if (!r.rivals.empty()) {
    std::vector<std::string> unseen;
    if (r.unseen_accuracy > 0)
      unseen.push_back(std::isinf(r.unseen_accuracy)
                           ? std::string("of any size")
                           : fmt::format("of up to {} points", percent(r.unseen_accuracy)));
    if (r.unseen_ratio > 0)
      unseen.push_back(std::isinf(r.unseen_ratio)
                           ? std::string("of any perplexity")
                           : fmt::format("of up to ×{} in perplexity", fixed(std::exp(r.unseen_ratio), 3)));
    parts.push_back(fmt::format("a tie: another run could put {} first", some_of(r, r.rivals)));
    if (!unseen.empty())
      parts.back() += fmt::format("; gains {} could hide in so few rows", fmt::join(unseen, ", or "));
  }
  std::vector<const Check*> narrow;
  for (const Check& check : r.candidates[*r.choice].checks) {
    if (check.status == Status::kMeetsNarrowly) narrow.push_back(&check);
  }
  for (const std::string& limit : by_limit(narrow, [](const Check& c) {
         return fmt::format("{}({})", c.task.empty() ? "" : " ", figure_text(c.figure.value, c.unit));
       }))
    parts.push_back(fmt::format("met only within the uncertainty: {}", limit));
  const bool others = std::any_of(r.overturning.begin(), r.overturning.end(), [&](size_t i) {
    return std::find(r.rivals.begin(), r.rivals.end(), i) == r.rivals.end();
  });
  if (others)
    parts.push_back(fmt::format("{}if a limit falls the other way in another run, {} would be chosen",
                                r.rivals.empty() ? "a tie: " : "", some_of(r, r.overturning)));
  for (size_t i = 0; i < r.candidates.size(); ++i) {
    if (r.against[i].overall() == Standing::kTrade)
      parts.push_back(
          fmt::format("{} is {}; --task says what counts", r.candidates[i].label(), why_not(r, i)));
  }
  if (!r.is_tie())
    parts.push_back("clear: another run would have to differ by more than its uncertainty to change this");
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::vector<std::pair<std::string, std::string>> reasons(const Recommendation& r) {
  const auto excuse = [&](size_t i) {
    return fmt::format("{}: {}", r.candidates[i].variant->label(), why_not(r, i));
  };
  if (r.choice) {
    std::vector<std::pair<std::string, std::string>> lines = {
        {"Quality", quality_text(r.candidates[*r.choice])}, {"Why", why_text(r)}, {"How sure", sure_text(r)}};
    if (r.best_quantized) lines.emplace_back("Best quantized", excuse(*r.best_quantized));
    for (const Warning& w : r.warnings)
      lines.emplace_back("Beware", fmt::format("{}: {}", w.title, w.figures));
    return lines;
  }
  if (r.nearest) return {{"Nearest", excuse(*r.nearest)}};
  return {{"Why", "each configuration lacks the score of a task"}};
}

std::string render_recommendation(const Recommendation& r, size_t width) {
  Lines lines(width);
  if (r.choice) {
    show_choice(lines, r);
  } else {
    show_none(lines, r);
  }
  if (r.spec.other_machine())
    lines.plain(
        "For another machine: size is exact; memory and speed are predictions from measurements here, not "
        "measured there.");
  return std::move(lines).text();
}

}  // namespace nibble::report
