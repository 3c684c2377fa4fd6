#include "report/finetuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/statistics.h"
#include "report/format.h"
#include "report/measures.h"

namespace nibble::report {
namespace {

constexpr size_t kMostLayers = 5;

// Of one row: what its 16-bit and its quantized answers got.
struct TaskChange {
  double value;
  uint64_t input;
  const std::string* cluster;
};

// By key: quantized less baseline, NLL a token of perplexities.
std::map<std::string, TaskChange> changes(const TaskView& base, const TaskView& quantized, bool is_ratio) {
  std::map<std::string, const Row*> before;
  for (const Row& row : base.rows) before[row.key] = &row;
  std::map<std::string, TaskChange> found;
  for (const Row& row : quantized.rows) {
    const auto other = before.find(row.key);
    if (other == before.end()) continue;
    const double tokens = is_ratio && row.tokens > 0 ? row.tokens : 1;
    found[row.key] = {(row.score - other->second->score) / tokens, row.input_hash, &row.cluster};
  }
  return found;
}

FineTunedMeasure of_task(const std::string& task, const VariantView& base16, const VariantView& base,
                         const VariantView& tuned16, const VariantView& tuned) {
  FineTunedMeasure m;
  m.name = task;
  const TaskView *reference[2] = {base16.find(task), tuned16.find(task)},
                 *cells[2] = {base.find(task), tuned.find(task)};
  for (int i = 0; i < 2; ++i) {
    if (reference[i] && cells[i] && cells[i]->result && cells[i]->to_baseline.comparable()) continue;
    m.missing = fmt::format("{}: {}", i == 0 ? "base" : "fine-tuned",
                            !cells[i]           ? "not in the plan"
                            : !cells[i]->result ? cells[i]->missing
                                                : cells[i]->to_baseline.not_comparable);
    return m;
  }
  m.is_ratio = is_perplexity(*cells[0]->result);
  const auto of_base = changes(*reference[0], *cells[0], m.is_ratio),
             of_tuned = changes(*reference[1], *cells[1], m.is_ratio);
  std::vector<double> first, second, apart;
  std::vector<std::string> clusters;
  for (const auto& [key, change] : of_base) {
    const auto other = of_tuned.find(key);
    if (other == of_tuned.end() || other->second.input != change.input) continue;
    first.push_back(change.value);
    second.push_back(other->second.value);
    apart.push_back(other->second.value - change.value);
    clusters.push_back(*change.cluster);
  }
  if (apart.empty() || apart.size() != of_base.size() || apart.size() != of_tuned.size()) {
    m.missing = "the two models were not asked the same rows";
    return m;
  }
  const Estimate difference = clustered_mean(apart, clusters);
  const double count = static_cast<double>(apart.size());
  m.base = sum(first) / count;
  m.tuned = sum(second) / count;
  m.difference = difference.value;
  m.error = difference.stderr_;
  return m;
}

FineTunedMeasure of_distance(const VariantView& base, const VariantView& tuned) {
  FineTunedMeasure m;
  m.name = "KL";
  m.is_distance = true;
  const auto first = distance_of(base), second = distance_of(tuned);
  if (!first || !second) {
    m.missing = fmt::format("{}: not measured", first ? "fine-tuned" : "base");
    return m;
  }
  const auto error = [](const Distance& d) { return (d.kl_high - d.kl_low) / (2 * kZ975); };
  m.base = first->kl;
  m.tuned = second->kl;
  m.difference = m.tuned - m.base;
  m.error = std::hypot(error(*first), error(*second));
  return m;
}

std::map<std::string, double> errors_of(const VariantView& variant) {
  std::map<std::string, double> errors;
  if (!variant.facts || !variant.facts->quantization_report.is_object()) return errors;
  const Json& report = variant.facts->quantization_report;
  if (!report.contains("linears")) return errors;
  for (const Json& linear : report.at("linears")) {
    if (!linear.contains("name") || !linear.contains("error") || !linear.at("error").is_number()) continue;
    errors[linear.at("name").get<std::string>()] = linear.at("error").get<double>();
  }
  return errors;
}

std::vector<FineTunedVariant::Layer> grown(const VariantView& base, const VariantView& tuned) {
  const auto before = errors_of(base), after = errors_of(tuned);
  std::vector<FineTunedVariant::Layer> layers;
  for (const auto& [name, error] : before) {
    const auto found = after.find(name);
    if (found != after.end() && error > 0 && found->second > error)
      layers.push_back({name, error, found->second});
  }
  std::stable_sort(layers.begin(), layers.end(),
                   [](const auto& a, const auto& b) { return a.growth() > b.growth(); });
  if (layers.size() > kMostLayers) layers.resize(kMostLayers);
  return layers;
}

const ModelView* find_model(const StudyView& study, const std::string& name) {
  const auto found = std::find_if(study.models.begin(), study.models.end(),
                                  [&](const ModelView& m) { return m.name == name; });
  return found == study.models.end() ? nullptr : &*found;
}

// As the table's cells say it: points of accuracy, per cent of perplexity, nats.
std::string in_words(const FineTunedMeasure& m, double value, bool is_change) {
  if (m.is_distance) return fixed(value, 4, is_change);
  return m.is_ratio ? fixed(100 * std::expm1(value), 2, true) + " %" : fixed(100 * value, 1, true);
}

std::string error_in_words(const FineTunedMeasure& m) {
  if (!std::isfinite(m.error)) return "";
  return " ± " + (m.is_distance ? fixed(m.error, 4)
                  : m.is_ratio  ? fixed(100 * m.error, 2)
                                : fixed(100 * m.error, 1));
}

}  // namespace

std::vector<FineTunedPair> fine_tuned_pairs(const StudyView& study) {
  std::vector<FineTunedPair> pairs;
  const auto stored = study.meta_text("finetuned");
  if (!stored) return pairs;
  const std::string where = "results.db (finetuned)";
  for (const Json& entry : parse_json(*stored, where)) {
    FineTunedPair pair{
        json_get<std::string>(entry, "base", where), json_get<std::string>(entry, "model", where), {}};
    const ModelView *base = find_model(study, pair.base), *tuned = find_model(study, pair.tuned);
    const VariantView *base16 = base ? base->baseline() : nullptr,
                      *tuned16 = tuned ? tuned->baseline() : nullptr;
    if (!base16 || !tuned16) continue;
    for (const VariantView& variant : base->variants) {
      if (variant.variant.is_baseline()) continue;
      const auto same =
          std::find_if(tuned->variants.begin(), tuned->variants.end(), [&](const VariantView& v) {
            return v.variant.method == variant.variant.method && v.variant.bits == variant.variant.bits &&
                   v.variant.group_size == variant.variant.group_size;
          });
      if (same == tuned->variants.end()) continue;
      FineTunedVariant& row = pair.variants.emplace_back();
      row.base = &variant;
      row.tuned = &*same;
      for (const std::string& task : study.tasks)
        row.measures.push_back(of_task(task, *base16, variant, *tuned16, *same));
      row.measures.push_back(of_distance(variant, *same));
      row.layers = grown(variant, *same);
    }
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

TextTable measures_table(const FineTunedPair& pair) {
  TextTable table{{{"Configuration"},
                   {"Measure"},
                   {"Base", Align::kRight},
                   {"Fine-tuned", Align::kRight},
                   {"Difference ± error", Align::kRight}},
                  {},
                  {}};
  for (const FineTunedVariant& v : pair.variants) {
    for (const FineTunedMeasure& m : v.measures) {
      if (!m.missing.empty()) {
        table.rows.push_back({v.base->label(), m.name, "–", "–", fmt::format("missing ({})", m.missing)});
        continue;
      }
      table.rows.push_back({v.base->label(), m.name, in_words(m, m.base, false), in_words(m, m.tuned, false),
                            in_words(m, m.difference, true) + error_in_words(m)});
    }
  }
  return table;
}

TextTable layers_table(const FineTunedPair& pair) {
  TextTable table{{{"Configuration"},
                   {"Layer"},
                   {"Error, base", Align::kRight},
                   {"Fine-tuned", Align::kRight},
                   {"Times", Align::kRight}},
                  {},
                  {}};
  for (const FineTunedVariant& v : pair.variants) {
    for (const auto& layer : v.layers)
      table.rows.push_back({v.base->label(), layer.name, fmt::format("{:.2e}", layer.base),
                            fmt::format("{:.2e}", layer.tuned), fixed(layer.growth(), 2)});
  }
  return table;
}

std::string render_fine_tuned(const std::vector<FineTunedPair>& pairs) {
  std::string out;
  for (const FineTunedPair& pair : pairs) {
    out += fmt::format("### {}, fine-tuned from {}\n\n", one_line(pair.tuned), one_line(pair.base));
    if (pair.variants.empty()) {
      out += "The two models have no configuration in common.\n\n";
      continue;
    }
    out += to_markdown(measures_table(pair)) + "\n";
    const TextTable layers = layers_table(pair);
    if (!layers.rows.empty())
      out += "Relative output errors of the layers that grew most:\n\n" + to_markdown(layers) + "\n";
  }
  if (out.empty()) return "";
  return "## What fine-tuning changed\n\nWhat quantization costs each model against its own 16-bit form: "
         "points of "
         "right answers, per cent of perplexity, KL in nats. The difference is fine-tuned less base with its "
         "standard "
         "error: on tasks row by row on the same rows, of KLs as of two independent means.\n\n" +
         out;
}

}  // namespace nibble::report
