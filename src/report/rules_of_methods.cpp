#include "report/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "eval/paired.h"
#include "report/format.h"

namespace nibble::report {
namespace {

constexpr double kAlpha = 0.05;

// Two methods at the same bits and group size on the same rows.
struct Duel {
  const ModelView* model;
  const VariantView *first, *second;
  const TaskView* cell;   // of the second
  Comparison comparison;  // second against first
};

// By pair of methods, in the order of their names.
using Duels = std::map<std::pair<std::string, std::string>, std::vector<Duel>>;

Duels all_duels(const StudyView& study) {
  Duels duels;
  for (const ModelView& model : study.models) {
    for (const VariantView& a : model.variants) {
      for (const VariantView& b : model.variants) {
        const bool same_form =
            a.variant.bits == b.variant.bits && a.variant.group_size == b.variant.group_size;
        // A model quantized elsewhere says little of its method: calibration and settings are not known.
        if (!a.variant.is_made_here() || !b.variant.is_made_here() || !same_form ||
            a.variant.method >= b.variant.method)
          continue;
        for (const TaskView& cell : b.tasks) {
          const TaskView* other = a.find(cell.task);
          if (!cell.result || !other || !other->result) continue;
          Comparison c = compare(*other->result, other->rows, *cell.result, cell.rows, kAlpha);
          if (c.comparable())
            duels[{a.variant.method, b.variant.method}].push_back({&model, &a, &b, &cell, std::move(c)});
        }
      }
    }
  }
  std::vector<double> p;
  for (const auto& [methods, list] : duels) {
    for (const Duel& duel : list) p.push_back(duel.comparison.p);
  }
  const std::vector<double> corrected = holm(p);
  size_t i = 0;
  for (auto& [methods, list] : duels) {
    for (Duel& duel : list) duel.comparison.p_holm = corrected[i++];
  }
  return duels;
}

bool won(const Duel& duel, Verdict verdict) {
  return duel.comparison.verdict == verdict && duel.comparison.p_holm < kAlpha;
}

std::string place(const Duel& duel) {
  const Variant& v = duel.second->variant;
  return fmt::format("{} {} at {} bits, {}", duel.model->name, duel.cell->task, v.bits,
                     v.group_size > 0 ? fmt::format("g{}", v.group_size) : "whole rows");
}

// Keys that differ between runs although the outputs are the same.
bool is_timing(const std::string& key) { return key.ends_with("_ms") || key.ends_with("seconds"); }

Json without_timing(const Json& detail) {
  if (!detail.is_object()) return detail;
  Json out = Json::object();
  for (const auto& [key, value] : detail.items()) {
    if (!is_timing(key)) out[key] = value;
  }
  return out;
}

bool has_fraction(const Json& value) {
  if (value.is_number_float()) return true;
  return value.is_structured() &&
         std::any_of(value.begin(), value.end(), [](const Json& v) { return has_fraction(v); });
}

// Whether all outputs are equal, and whether some of them are real numbers (log-likelihoods), which agree by
// chance only where nothing was changed; equal texts alone prove nothing.
struct Sameness {
  bool equal = true;
  bool telling = false;
};

Sameness compare_outputs(const TaskView& a, const TaskView& b) {
  Sameness same;
  std::map<std::string_view, const Row*> partners;
  for (const Row& row : b.rows) partners[row.key] = &row;
  for (const Row& row : a.rows) {
    const auto found = partners.find(row.key);
    if (found == partners.end()) return {false, false};
    const Row& other = *found->second;
    const Json detail = without_timing(row.detail);
    if (row.score != other.score || row.tokens != other.tokens || row.output_hash != other.output_hash ||
        detail != without_timing(other.detail)) {
      return {false, true};
    }
    same.telling |= has_fraction(detail) || is_perplexity(*a.result);
  }
  return same;
}

}  // namespace

RuleResult inconsistent_benefits(const StudyView& study) {
  RuleResult result;
  for (const auto& [methods, duels] : all_duels(study)) {
    result.judged += duels.size();
    const auto count = [&](Verdict v) {
      return std::count_if(duels.begin(), duels.end(), [&](const Duel& d) { return won(d, v); });
    };
    const auto first_wins = count(Verdict::kWorse), second_wins = count(Verdict::kBetter);
    if (first_wins == 0 || second_wins == 0) continue;
    const auto& [first, second] = methods;
    Issue issue;
    issue.where = fmt::format("{} against {}", first, second);
    issue.finding =
        fmt::format("{} wins {} and {} wins {} of {}: no method is the better one everywhere", first,
                    first_wins, second, second_wins, counted(duels.size(), "paired comparison"));
    issue.threshold = fmt::format(
        "wins on both sides whose 95 % interval excludes 0 with p < {} after Holm's correction", kAlpha);
    for (const Duel& duel : duels) {
      if (!won(duel, Verdict::kBetter) && !won(duel, Verdict::kWorse)) continue;
      issue.evidence.push_back(
          {place(duel),
           fmt::format("{} wins; {} − {}: {}, p {} after correction",
                       duel.comparison.verdict == Verdict::kBetter ? second : first, second, first,
                       difference_text(duel.comparison), p_value(duel.comparison.p_holm))});
    }
    issue.cause = "the methods protect different weights; which of them matter depends on model and task";
    result.issues.push_back(std::move(issue));
  }
  if (result.judged == 0)
    result.not_judged = {"no two methods measured at the same bits and group size on the same rows"};
  return result;
}

RuleResult weights_not_quantized(const StudyView& study) {
  RuleResult result;
  for (const ModelView& model : study.models) {
    const VariantView* baseline = model.baseline();
    for (const VariantView& variant : model.variants) {
      if (!baseline || variant.variant.is_baseline()) continue;
      const bool same_hash = baseline->facts && variant.facts && !variant.facts->sha256.empty() &&
                             baseline->facts->sha256 == variant.facts->sha256;
      size_t compared = 0, rows = 0;
      bool all_equal = true, telling = false;
      for (const TaskView& cell : variant.tasks) {
        if (!cell.result || !cell.to_baseline.comparable()) continue;
        const Sameness same = compare_outputs(*baseline->find(cell.task), cell);
        ++compared;
        rows += cell.rows.size();
        all_equal &= same.equal;
        telling |= same.telling;
      }
      const bool judged = same_hash || (compared > 0 && (telling || !all_equal));
      if (!judged) continue;
      ++result.judged;
      if (!same_hash && !all_equal) continue;
      Issue& issue = issue_at(result.issues, model.name);
      if (same_hash)
        issue.evidence.push_back({variant.label(), "SHA-256 of the weights equal to the baseline's"});
      if (compared > 0 && all_equal) {
        issue.evidence.push_back({variant.label(), fmt::format("all {} outputs of {} equal to the baseline's",
                                                               rows, counted(compared, "task"))});
      }
      issue.finding = fmt::format("{}: {}", issue.evidence.front().cell, issue.evidence.front().figure);
      issue.threshold = "at least one log-likelihood differs from the baseline's";
      issue.cause = "the run loaded the original weights, or every layer fell back to 16 bits";
    }
  }
  if (result.judged == 0) {
    result.not_judged = {"no log-likelihoods stored for both a quantized variant and its baseline"};
  }
  return result;
}

}  // namespace nibble::report
