#include "report/json.h"

#include "base/json.h"
#include "report/columns.h"
#include "report/fallbacks.h"
#include "report/json_parts.h"

namespace nibble::report {
namespace {

OrderedJson to_json(const Value& value) {
  if (!value.missing.empty()) return {{"missing", value.missing}};
  if (!value.number) return value.text;
  if (!value.sd && !value.ci_low) return number(*value.number);
  OrderedJson json{{"value", number(*value.number)}};
  if (value.sd) json["sd"] = number(*value.sd);
  if (value.ci_low) json["ci95"] = {number(*value.ci_low), number(*value.ci_high)};
  return json;
}

void add_columns(OrderedJson& json, std::span<const Column> columns, const ColumnRow& row) {
  for (const Column& column : columns) {
    const Value value = column.value(row);
    const bool applies = value.number || !value.missing.empty() || value.text != not_applicable().text;
    if (applies && !json.contains(column.key)) json[column.key] = to_json(value);
  }
}

OrderedJson to_json(const ModelView& model, const VariantView& variant, const TaskView& cell) {
  OrderedJson json{{"task", cell.task}};
  if (!cell.missing.empty()) {
    json["missing"] = cell.missing;
    return json;
  }
  if (cell.result) {
    const ColumnRow row{model, variant, &cell};
    json.update(OrderedJson(nibble::to_json(*cell.result)));
    OrderedJson compared = OrderedJson::object();
    add_columns(compared, score_columns(), row);
    for (const char* key : {"model", "configuration", "dataset", "rows", "metric"}) compared.erase(key);
    json["against_baseline"] = std::move(compared);
  }
  if (cell.memory) json["memory_bytes"] = nibble::to_json(*cell.memory);
  if (!cell.bench.is_null()) json["bench"] = cell.bench;
  if (!cell.distance.is_null()) json["distance"] = cell.distance;
  json["process_seconds"] = cell.seconds;
  return json;
}

OrderedJson to_json(const ModelView& model, const VariantView& variant) {
  OrderedJson json = id_of(variant.variant);
  if (variant.facts) {
    json["sha256"] = variant.facts->sha256;
    json["parameters"] = variant.facts->parameters;
    if (!variant.facts->parts.is_null()) json["parts"] = variant.facts->parts;
  }
  add_columns(json, efficiency_columns(), {model, variant, nullptr});
  json["cells"] = OrderedJson::array();
  for (const TaskView& cell : variant.tasks) json["cells"].push_back(to_json(model, variant, cell));
  if (!variant.facts) return json;
  if (variant.facts->quantization_report.is_object())
    json["quantization_report"] = variant.facts->quantization_report;
  json["fallbacks"] = OrderedJson::array();
  for (const Fallback& f : fallbacks_of(variant.facts->quantization_report)) {
    json["fallbacks"].push_back({{"layer", f.layer}, {"fallback", f.fallback}, {"reason", f.reason}});
  }
  return json;
}

OrderedJson to_json(const std::optional<Change>& change, const std::string& missing) {
  if (!change) return {{"missing", missing}};
  return {{"bytes", change->bytes}, {"share", change->share}};
}

OrderedJson score_of(const TaskView* cell, const std::string& missing) {
  if (!missing.empty() || !cell || !cell->primary()) return {{"missing", missing}};
  const Metric& m = *cell->primary();
  return {{"metric", cell->result->primary},
          {"value", number(m.value)},
          {"ci95", {number(m.ci_low), number(m.ci_high)}}};
}

OrderedJson to_json(const Comparison& c) {
  if (!c.comparable()) return {{"missing", c.not_comparable}};
  OrderedJson json{{"scale", c.is_ratio ? "ln_ppl_ratio" : "share"},
                   {"pairs", c.pairs},
                   {"value", number(c.difference)},
                   {"ci95", {number(c.ci_low), number(c.ci_high)}},
                   {"significance", verdict_word(c.verdict)},
                   {"smallest_detectable", number(c.smallest_detectable)},
                   {"p", number(c.p)},
                   {"p_holm", number(c.p_holm)}};
  if (!c.is_ratio) {
    json["right_to_wrong"] = c.right_to_wrong;
    json["wrong_to_right"] = c.wrong_to_right;
  }
  return json;
}

OrderedJson to_json(const Table1Row& row) {
  OrderedJson json{{"model", row.model},
                   {"task", row.task},
                   {"baseline", score_of(row.baseline_cell, row.missing_baseline)}};
  json["best"] = score_of(row.best_cell, row.missing_best);
  if (row.best) {
    json["best_variant"] = id_of(row.best->variant);
    json["difference"] = to_json(row.best_cell->to_baseline);
  }
  json["tied"] = OrderedJson::array();
  for (const VariantView* tied : row.tied) json["tied"].push_back(id_of(tied->variant));
  json["memory_change"] = to_json(row.memory, row.missing_memory);
  json["size_change"] = to_json(row.size, row.missing_size);
  json["observation"] = row.observation;
  return json;
}

OrderedJson to_json(const Issue& issue) {
  OrderedJson json{{"rule", issue.rule},       {"title", issue.title},         {"where", issue.where},
                   {"finding", issue.finding}, {"threshold", issue.threshold}, {"likely_cause", issue.cause}};
  json["evidence"] = OrderedJson::array();
  for (const Evidence& e : issue.evidence)
    json["evidence"].push_back({{"cell", e.cell}, {"figure", e.figure}});
  return json;
}

OrderedJson recommendation_of(const Recommendation& r) {
  const auto id = [&](const std::optional<size_t>& i) {
    return i ? id_of(r.candidates[*i].variant->variant) : OrderedJson();
  };
  OrderedJson json{{"model", r.spec.models.front()},
                   {"verdict", verdict_name(r)},
                   {"choice", id(r.choice)},
                   {"best_quantized", id(r.best_quantized)}};
  if (r.choice) {
    json["quality"] = quality_text(r.candidates[*r.choice]);
    json["why"] = why_text(r);
    json["how_sure"] = sure_text(r);
  }
  json["others"] = OrderedJson::array();
  for (const size_t i : runners_up(r)) {
    OrderedJson other = id_of(r.candidates[i].variant->variant);
    other["on_pareto_front"] = r.candidates[i].on_front;
    other["why_not"] = why_not(r, i);
    json["others"].push_back(std::move(other));
  }
  return json;
}

OrderedJson to_json(const FineTunedMeasure& m) {
  if (!m.missing.empty()) return {{"measure", m.name}, {"missing", m.missing}};
  return {{"measure", m.name},
          {"scale", m.is_distance ? "kl"
                    : m.is_ratio  ? "ln_ppl_ratio"
                                  : "share"},
          {"base", number(m.base)},
          {"finetuned", number(m.tuned)},
          {"difference", number(m.difference)},
          {"stderr", number(m.error)}};
}

OrderedJson to_json(const FineTunedPair& pair) {
  OrderedJson json{{"model", pair.tuned}, {"base", pair.base}, {"variants", OrderedJson::array()}};
  for (const FineTunedVariant& v : pair.variants) {
    OrderedJson variant = id_of(v.tuned->variant);
    for (const char* key : {"measures", "layers"}) variant[key] = OrderedJson::array();
    for (const FineTunedMeasure& m : v.measures) variant["measures"].push_back(to_json(m));
    for (const auto& layer : v.layers)
      variant["layers"].push_back({{"name", layer.name},
                                   {"base", number(layer.base)},
                                   {"finetuned", number(layer.tuned)},
                                   {"growth", number(layer.growth())}});
    json["variants"].push_back(std::move(variant));
  }
  return json;
}

OrderedJson analysis_of(const ModelView& model) {
  OrderedJson json{{"model", model.name}};
  if (!model.analysis.view) {
    json["missing"] = model.analysis.missing;
    return json;
  }
  const AnalysisView& a = *model.analysis.view;
  json.update(
      {{"probe", {{"bits", a.probe.bits}, {"group_size", a.probe.group_size}, {"symmetric", a.symmetric}}},
       {"tokens", a.tokens},
       {"kl_positions", a.kl_positions},
       {"linears", OrderedJson::array()},
       {"layers", OrderedJson::array()}});
  for (const AnalyzedLinear& l : a.linears) {
    OrderedJson errors = OrderedJson::object();
    for (size_t c = 0; c < a.choices.size(); ++c)
      errors[std::to_string(a.choices[c].bits)][std::to_string(a.choices[c].group_size)] =
          number(l.errors[c]);
    json["linears"].push_back(
        {{"name", l.name}, {"layer", l.layer}, {"kl", number(l.kl)}, {"errors", errors}});
  }
  for (const AnalysisView::Layer& l : a.layers) {
    OrderedJson kl = OrderedJson::object();
    for (size_t g = 0; g < l.kl.size(); ++g) kl[std::to_string(a.group_sizes[g])] = number(l.kl[g]);
    json["layers"].push_back({{"layer", l.layer}, {"kl", kl}});
  }
  return json;
}

}  // namespace

std::string render_json(const Report& report) {
  OrderedJson json{
      {"meta", report.study.meta}, {"tasks", report.study.tasks}, {"comparisons", report.study.comparisons}};
  for (const char* key :
       {"table1", "recommendations", "critical_issues", "rules", "variants", "finetuned", "analyses"})
    json[key] = OrderedJson::array();
  for (const Table1Row& row : report.table1) json["table1"].push_back(to_json(row));
  for (const Recommendation& r : report.choices) json["recommendations"].push_back(recommendation_of(r));
  for (const Issue& issue : report.issues.issues) json["critical_issues"].push_back(to_json(issue));
  for (const RuleCheck& check : report.issues.checks) {
    json["rules"].push_back({{"rule", check.rule},
                             {"title", check.title},
                             {"criterion", check.criterion},
                             {"judged", check.judged},
                             {"found", check.found},
                             {"not_judged", check.not_judged}});
  }
  for (const ModelView& model : report.study.models) {
    for (const VariantView& variant : model.variants) json["variants"].push_back(to_json(model, variant));
    json["analyses"].push_back(analysis_of(model));
  }
  for (const FineTunedPair& pair : report.finetuned) json["finetuned"].push_back(to_json(pair));
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace nibble::report
