#include "report/table1.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "eval/paired.h"
#include "report/answers.h"
#include "report/format.h"

namespace nibble::report {
namespace {

struct Candidate {
  const VariantView* variant;
  const TaskView* cell;
};

uint64_t file_bytes(const VariantView& variant) { return variant.facts ? variant.facts->file_bytes : 0; }

std::vector<Candidate> candidates_of(const ModelView& model, const std::string& task) {
  std::vector<Candidate> found;
  for (const VariantView& variant : model.variants) {
    const TaskView* cell = variant.find(task);
    if (variant.variant.is_baseline() || !cell || !cell->primary() || std::isnan(cell->primary()->value))
      continue;
    found.push_back({&variant, cell});
  }
  const auto better = [](const Candidate& a, const Candidate& b) {
    const double sign = a.cell->result->higher_is_better ? 1 : -1;
    return sign * a.cell->primary()->value > sign * b.cell->primary()->value;
  };
  std::stable_sort(found.begin(), found.end(), better);
  return found;
}

// The top candidate, or the smallest of those that cannot be told from it.
void pick_best(std::vector<Candidate> candidates, Table1Row& row) {
  row.candidates = candidates.size();
  if (candidates.empty()) return;
  Candidate best = candidates.front();
  std::vector<Candidate> tied{best}, others;
  std::vector<Comparison> comparisons;
  std::vector<double> p;
  for (size_t i = 1; i < candidates.size(); ++i) {
    Comparison c =
        compare(*best.cell->result, best.cell->rows, *candidates[i].cell->result, candidates[i].cell->rows);
    if (!c.comparable()) continue;
    others.push_back(candidates[i]);
    p.push_back(c.p);
    comparisons.push_back(std::move(c));
  }
  const std::vector<double> corrected = holm(p);
  for (size_t i = 0; i < others.size(); ++i) {
    comparisons[i].p_holm = corrected[i];
    if (!comparisons[i].survives_holm()) tied.push_back(others[i]);
  }
  if (tied.size() > 1) {
    for (const Candidate& c : tied) row.tied.push_back(c.variant);
    const bool sizes_known =
        std::all_of(tied.begin(), tied.end(), [](const Candidate& c) { return file_bytes(*c.variant) > 0; });
    if (sizes_known) {
      best = *std::min_element(tied.begin(), tied.end(), [](const Candidate& a, const Candidate& b) {
        return file_bytes(*a.variant) < file_bytes(*b.variant);
      });
      row.tie_note = fmt::format("{} of {} configurations tie, the smallest file is shown", tied.size(),
                                 candidates.size());
    } else {
      row.tie_note =
          fmt::format("{} of {} configurations tie; file sizes are missing, so the highest score is shown",
                      tied.size(), candidates.size());
    }
  }
  row.best = best.variant;
  row.best_cell = best.cell;
}

std::string why_no_best(const ModelView& model, const std::string& task) {
  std::string reason;
  size_t planned = 0;
  for (const VariantView& variant : model.variants) {
    const TaskView* cell = variant.find(task);
    if (variant.variant.is_baseline() || !cell) continue;
    ++planned;
    if (reason.empty())
      reason = fmt::format("{}: {}", variant.label(), cell->missing.empty() ? "no score" : cell->missing);
  }
  if (planned == 0) return "no quantized cell in the plan";
  return planned == 1 ? reason : fmt::format("all {} cells; {}", planned, reason);
}

std::optional<Change> change(double before, double after) {
  if (before <= 0 || after <= 0) return std::nullopt;
  return Change{after - before, (after - before) / before};
}

void fill_changes(Table1Row& row) {
  if (!row.best || !row.baseline_cell || !row.baseline) {
    row.missing_memory = row.missing_size = "nothing to compare";
    return;
  }
  const auto peak = [](const TaskView& cell) {
    return cell.memory ? static_cast<double>(cell.memory->peak_rss) : 0.0;
  };
  row.memory = change(peak(*row.baseline_cell), peak(*row.best_cell));
  if (!row.memory) {
    row.missing_memory = !row.baseline_cell->missing.empty() ? "baseline: " + row.baseline_cell->missing
                                                             : "peak memory not stored";
  }
  row.size =
      change(static_cast<double>(file_bytes(*row.baseline)), static_cast<double>(file_bytes(*row.best)));
  if (!row.size) row.missing_size = "file size not stored";
}

std::string quality_clause(const Table1Row& row) {
  const Comparison& c = row.best_cell->to_baseline;
  const std::string size =
      row.size ? fmt::format(" at {} % of the size", fixed(100 + 100 * row.size->share, 0)) : "";
  if (!c.comparable()) return "Not comparable with the baseline: " + c.not_comparable;
  const std::string flips =
      c.is_ratio ? "" : fmt::format("answers lost: {}, won: {}", c.right_to_wrong, c.wrong_to_right);
  const std::string holm = c.survives_holm() ? "" : ", not significant after Holm's correction";
  if (c.verdict == Verdict::kBetter) {
    return c.is_ratio ? fmt::format("Perplexity falls by {} %, which is improbable{}",
                                    percent(1 - std::exp(c.difference)), holm)
                      : fmt::format("Beats its baseline, which is improbable{} ({})", holm, flips);
  }
  if (c.verdict == Verdict::kWorse) {
    return c.is_ratio
               ? fmt::format("Perplexity grows by {} %{}{}", percent(std::exp(c.difference) - 1), size, holm)
               : fmt::format("Loses {} points{}{} ({})", percent(-c.difference), size, holm, flips);
  }
  const std::string none = "No measurable difference" + size;
  if (c.is_ratio) return none;
  return c.right_to_wrong + c.wrong_to_right == 0 ? none + ", every answer as right or wrong as before"
                                                  : fmt::format("{} ({})", none, flips);
}

std::string observe(const Table1Row& row) {
  if (!row.missing_baseline.empty())
    return fmt::format("Nothing to compare with: baseline missing ({}).", row.missing_baseline);
  if (!row.best) return fmt::format("No quantized result: {}.", row.missing_best);
  std::string sentence = quality_clause(row);
  if (const auto constant = constant_answer(*row.baseline_cell)) {
    sentence += fmt::format("; the baseline itself answers {} on {} % of the rows", constant->quoted(),
                            percent(constant->share));
  }
  if (row.memory && row.memory->bytes >= 0) sentence += "; it takes no less memory";
  if (!row.tie_note.empty()) sentence += "; " + row.tie_note;
  return sentence + ".";
}

}  // namespace

std::vector<Table1Row> table1(const StudyView& study) {
  std::vector<Table1Row> rows;
  for (const ModelView& model : study.models) {
    for (const std::string& task : study.tasks) {
      const bool planned = std::any_of(model.variants.begin(), model.variants.end(),
                                       [&](const VariantView& v) { return v.find(task) != nullptr; });
      if (!planned) continue;
      Table1Row row;
      row.model = model.name;
      row.task = task;
      row.baseline = model.baseline();
      row.baseline_cell = row.baseline ? row.baseline->find(task) : nullptr;
      if (!row.baseline)
        row.missing_baseline = kNoBaseline;
      else if (!row.baseline_cell)
        row.missing_baseline = "not in the plan";
      else if (!row.baseline_cell->missing.empty())
        row.missing_baseline = row.baseline_cell->missing;
      else if (!row.baseline_cell->primary())
        row.missing_baseline = "no primary metric stored";
      pick_best(candidates_of(model, task), row);
      if (!row.best) row.missing_best = why_no_best(model, task);
      fill_changes(row);
      row.observation = observe(row);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::string score_text(const TaskView* cell, const std::string& missing) {
  if (!missing.empty() || !cell || !cell->primary()) return fmt::format("missing ({})", missing);
  const Metric& m = *cell->primary();
  const auto print = [&](double v) { return is_perplexity(*cell->result) ? perplexity(v) : percent(v); };
  if (std::isnan(m.ci_low) || std::isnan(m.ci_high)) return print(m.value) + " (no interval: too few rows)";
  return fmt::format("{} {}", print(m.value), interval(print(m.ci_low), print(m.ci_high)));
}

std::string change_text(const std::optional<Change>& change, const std::string& missing) {
  return change ? percent(change->share, true) + " %" : fmt::format("missing ({})", missing);
}

std::string change_in_full(const std::optional<Change>& change, const std::string& missing) {
  if (!change) return fmt::format("missing ({})", missing);
  return fmt::format("{} MB ({} %)", megabytes(change->bytes, true), percent(change->share, true));
}

std::string significance_text(const Comparison& c) {
  if (!c.comparable()) return "not comparable: " + c.not_comparable;
  const std::string word(verdict_word(c.verdict));
  if (c.survives_holm()) return word;
  if (c.verdict != Verdict::kNone) return word + ", not after Holm's correction";
  return fmt::format("{} ({} could have been shown)", word, detectable_text(c));
}

}  // namespace nibble::report
