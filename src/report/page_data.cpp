#include <array>

#include "base/json.h"
#include "report/columns.h"
#include "report/fallbacks.h"
#include "report/format.h"
#include "report/head.h"
#include "report/json_parts.h"
#include "report/measures.h"
#include "report/page.h"
#include "report/page_analysis.h"

namespace nibble::report {
namespace {

// ---- tables: {"columns": [[title, right-aligned]], "rows": [[[text, number or null], …]]}

OrderedJson table_of(std::span<const Column> columns, const std::vector<ColumnRow>& rows) {
  OrderedJson table{{"columns", OrderedJson::array()}, {"rows", OrderedJson::array()}};
  for (size_t i = 0; i < rows.size(); ++i) table["rows"].push_back(OrderedJson::array());
  for (const Column& column : columns) {
    std::vector<Value> values;
    bool applies = false;
    for (const ColumnRow& row : rows) {
      values.push_back(column.value(row));
      const Value& v = values.back();
      applies |= !v.missing.empty() || v.text != not_applicable().text;
    }
    if (!applies) continue;
    table["columns"].push_back({column.title, column.align == Align::kRight});
    for (size_t i = 0; i < rows.size(); ++i) {
      OrderedJson cell = OrderedJson::array({shown(values[i])});
      if (values[i].number) cell.push_back(number(*values[i].number));
      table["rows"][i].push_back(std::move(cell));
    }
  }
  return table;
}

OrderedJson table_of(const TextTable& text) {
  OrderedJson table{{"columns", OrderedJson::array()}, {"rows", OrderedJson::array()}};
  for (const TableHead& head : text.heads)
    table["columns"].push_back({head.title, head.align == Align::kRight});
  for (const auto& row : text.rows) {
    OrderedJson cells = OrderedJson::array();
    for (const std::string& cell : row) cells.push_back(OrderedJson::array({cell}));
    table["rows"].push_back(std::move(cells));
  }
  return table;
}

OrderedJson tables(const StudyView& study) {
  std::vector<ColumnRow> variants, cells;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      variants.push_back({model, variant, nullptr});
      for (const TaskView& cell : variant.tasks) {
        if (is_task(cell.task)) cells.push_back({model, variant, &cell});
      }
    }
  }
  return {{"scores", table_of(score_columns(), cells)},
          {"efficiency", table_of(efficiency_columns(), variants)},
          {"speed", table_of(speed_columns(), cells)},
          {"tasks", table_of(tasks_table(study))}};
}

// ---- what the charts draw, raw: shares, bytes, ms, tokens/s

OrderedJson chart_json(const Comparison& c) {
  if (!c.comparable()) return {{"missing", c.not_comparable}};
  return {{"ratio", c.is_ratio},
          {"value", number(c.difference)},
          {"low", number(c.ci_low)},
          {"high", number(c.ci_high)},
          {"verdict", c.verdict == Verdict::kNone ? "none" : verdict_word(c.verdict)},
          {"text", difference_text(c)},
          {"detectable", detectable_text(c)},
          {"lost", c.right_to_wrong},
          {"won", c.wrong_to_right},
          {"pairs", c.pairs}};
}

OrderedJson memory_of(const MemoryBytes& m) {
  return {{"weights", m.weights},
          {"kv_cache", m.kv_cache},
          {"workspace", m.workspace},
          {"other", other_bytes(m)},
          {"peak", m.peak_rss}};
}

bool is_measured(const Percentiles& p) { return p.p50 > 0; }

OrderedJson to_json(const TaskView& cell, bool baseline) {
  OrderedJson json{{"task", cell.task}};
  if (!cell.missing.empty()) {
    json["missing"] = cell.missing;
    json["waiting"] = cell.missing == kNotRunYet;
    return json;
  }
  json["seconds"] = cell.seconds;
  if (cell.memory) json["memory"] = memory_of(*cell.memory);
  if (!cell.result) return json;
  const TaskResult& r = *cell.result;
  json["primary"] = r.primary;
  json["perplexity"] = is_perplexity(r);
  json["rows"] = r.rows;
  json["metrics"] = OrderedJson::object();
  for (const auto& [name, m] : r.metrics)
    json["metrics"][name] = {number(m.value), number(m.ci_low), number(m.ci_high)};
  json["latency"] = OrderedJson::object();
  for (const auto& [name, p] :
       {std::pair{"response", &r.latency_ms}, std::pair{"first token", &r.first_token_ms},
        std::pair{"per token", &r.per_token_ms}}) {
    if (is_measured(*p)) json["latency"][name] = nibble::to_json(*p);
  }
  json["prompt_rate"] = number(r.prompt_tokens_per_s);
  json["output_rate"] = number(r.output_tokens_per_s);
  if (!baseline) json["difference"] = chart_json(cell.to_baseline);
  return json;
}

// A column per fact of a linear; one value stands for all where all are the same.
OrderedJson column_of(const Json& linears, const char* key) {
  OrderedJson values = OrderedJson::array();
  bool same = true;
  for (const Json& linear : linears) {
    const auto found = linear.find(key);
    values.push_back(found == linear.end()      ? OrderedJson()
                     : found->is_number_float() ? short_number(found->get<double>())
                                                : OrderedJson(*found));
    same &= values.back() == values.front();
  }
  return same && !values.empty() ? OrderedJson{{"all", values.front()}} : values;
}

OrderedJson quantization_of(const Json& report) {
  if (!report.is_object() || !report.contains("linears") || !report["linears"].is_array())
    return {{"missing", "no quantization report stored"}};
  const Json& linears = report["linears"];
  for (const Json& linear : linears) {
    if (!linear.is_object()) return {{"missing", "the stored quantization report is damaged"}};
  }
  OrderedJson json{{"count", linears.size()}, {"linears", OrderedJson::object()}};
  for (const char* key : {"name", "shape", "method", "bits", "group_size", "remainder", "symmetric",
                          "act_order", "damp", "error", "rtn_error", "seconds", "fallback", "reason"}) {
    json["linears"][key] = column_of(linears, key);
  }
  json["warnings"] = warnings_of(report);
  json["fallbacks"] = fallbacks_of(report).size();
  if (report.contains("calibration") && report["calibration"].is_object()) {
    const Json& c = report["calibration"];
    json["calibration"] = {{"tokens", json_get_or<int64_t>(c, "tokens", 0, "calibration")},
                           {"samples", json_get_or<int64_t>(c, "samples", 0, "calibration")}};
  }
  return json;
}

OrderedJson bench_of(const VariantView& variant, std::string_view prefix) {
  const Json* test = bench_test(variant, prefix);
  const auto rate = bench_rate(variant, prefix);
  if (!test || !rate) return nullptr;
  OrderedJson json{{"test", json_get_or<std::string>(*test, "test", "", kBench)},
                   {"mean", number(rate->mean)},
                   {"sd", number(rate->sd)}};
  const auto latency = test->find("latency_ms");
  if (latency != test->end() && latency->is_object()) json["latency"] = *latency;
  return json;
}

OrderedJson to_json(const VariantView& variant) {
  const bool baseline = variant.variant.is_baseline();
  OrderedJson json{{"label", variant.label()},
                   {"method", variant.variant.method},
                   {"bits", variant.variant.bits},
                   {"group_size", variant.variant.group_size},
                   {"baseline", baseline}};
  if (const auto& facts = variant.facts) {
    json["file_bytes"] = facts->file_bytes;
    json["parameters"] = facts->parameters;
    if (facts->file_bytes > 0 && facts->parameters > 0)
      json["bits_per_weight"] =
          8.0 * static_cast<double>(facts->file_bytes) / static_cast<double>(facts->parameters);
    json["parts"] = facts->parts;
    if (variant.variant.is_made_here()) {
      json["quantize_seconds"] = number(facts->quantize_seconds);
      json["quantization"] = quantization_of(facts->quantization_report);
    }
  }
  json["prefill"] = bench_of(variant, "pp");
  json["decode"] = bench_of(variant, "tg");
  if (const auto d = distance_of(variant)) {
    json["kl"] = {number(d->kl), number(d->kl_low), number(d->kl_high)};
    json["kl_tokens"] = d->tokens;
  }
  json["cells"] = OrderedJson::array();
  for (const TaskView& cell : variant.tasks) json["cells"].push_back(to_json(cell, baseline));
  return json;
}

OrderedJson models(const StudyView& study) {
  OrderedJson list = OrderedJson::array();
  for (const ModelView& model : study.models) {
    OrderedJson json{{"name", model.name},
                     {"analysis", analysis_data(model.analysis)},
                     {"variants", OrderedJson::array()}};
    for (const VariantView& variant : model.variants) json["variants"].push_back(to_json(variant));
    list.push_back(std::move(json));
  }
  return list;
}

// ---- the words: choices, Table 1, issues

size_t index_of(const ModelView& model, const VariantView* variant) {
  return static_cast<size_t>(variant - model.variants.data());
}

OrderedJson index_or_null(const Recommendation& r, const std::optional<size_t>& i) {
  return i ? OrderedJson(index_of(*r.candidates[*i].model, r.candidates[*i].variant)) : OrderedJson();
}

// `nibble recommend` without limits, for each model.
OrderedJson choices(const Report& report) {
  OrderedJson list = OrderedJson::array();
  for (const Recommendation& r : report.choices) {
    OrderedJson json{{"verdict", verdict_name(r)},
                     {"variant", index_or_null(r, r.choice)},
                     {"quantized", index_or_null(r, r.best_quantized)},
                     {"lines", OrderedJson::array()},
                     {"others", OrderedJson::array()}};
    for (const auto& [label, text] : reasons(r)) json["lines"].push_back({label, text});
    for (const size_t i : runners_up(r))
      json["others"].push_back({index_or_null(r, i), r.candidates[i].on_front, why_not(r, i)});
    list.push_back(std::move(json));
  }
  return list;
}

OrderedJson table1_of(const Report& report) {
  OrderedJson rows = OrderedJson::array();
  for (const Table1Row& row : report.table1) {
    OrderedJson json{{"model", row.model},
                     {"task", row.task},
                     {"metric", ""},
                     {"baseline", score_text(row.baseline_cell, row.missing_baseline)},
                     {"best", score_text(row.best_cell, row.missing_best)},
                     {"variant", row.best ? row.best->label() : "–"}};
    for (const TaskView* cell : {row.best_cell, row.baseline_cell}) {
      if (cell && cell->result)
        json["metric"] = cell->result->primary + (is_perplexity(*cell->result) ? "" : " %");
    }
    json["difference"] = row.best ? chart_json(row.best_cell->to_baseline) : OrderedJson{{"missing", "–"}};
    json["significance"] = row.best ? significance_text(row.best_cell->to_baseline) : "–";
    json["memory"] = {change_in_full(row.memory, row.missing_memory),
                      row.memory ? number(row.memory->share) : OrderedJson()};
    json["size"] = {change_in_full(row.size, row.missing_size),
                    row.size ? number(row.size->share) : OrderedJson()};
    json["observation"] = row.observation;
    rows.push_back(std::move(json));
  }
  return rows;
}

OrderedJson issues_of(const CriticalIssues& found) {
  OrderedJson list = OrderedJson::array();
  for (const Issue& issue : found.issues) {
    OrderedJson json{{"rule", issue.rule},       {"title", issue.title},         {"where", issue.where},
                     {"finding", issue.finding}, {"threshold", issue.threshold}, {"cause", issue.cause}};
    json["evidence"] = OrderedJson::array();
    for (const Evidence& e : issue.evidence) json["evidence"].push_back({e.cell, e.figure});
    list.push_back(std::move(json));
  }
  return list;
}

OrderedJson rules_of(const CriticalIssues& found) {
  OrderedJson list = OrderedJson::array();
  for (const RuleCheck& check : found.checks)
    list.push_back({check.title, check.criterion, check.judged, check.found});
  return list;
}

// The tables of table1.md, with the numbers that stand behind them.
OrderedJson finetuned_of(const std::vector<FineTunedPair>& pairs) {
  OrderedJson list = OrderedJson::array();
  for (const FineTunedPair& pair : pairs) {
    OrderedJson measures = table_of(measures_table(pair)), layers = table_of(layers_table(pair));
    const auto add = [](OrderedJson& row, std::initializer_list<double> numbers) {
      size_t cell = 2;
      for (const double value : numbers) row[cell++].push_back(number(value));
    };
    size_t row = 0, layer_row = 0;
    for (const FineTunedVariant& v : pair.variants) {
      for (const FineTunedMeasure& m : v.measures) {
        if (m.missing.empty()) add(measures["rows"][row], {m.base, m.tuned, m.difference});
        ++row;
      }
      for (const auto& l : v.layers) add(layers["rows"][layer_row++], {l.base, l.tuned, l.growth()});
    }
    list.push_back({{"model", pair.tuned},
                    {"base", pair.base},
                    {"measures", std::move(measures)},
                    {"layers", std::move(layers)}});
  }
  return list;
}

OrderedJson to_json(const Answer& answer) { return {answer.prediction, answer.output, answer.right}; }

OrderedJson answers_of(const std::vector<ChangedAnswers>& all) {
  OrderedJson list = OrderedJson::array();
  for (const ChangedAnswers& answers : all) {
    OrderedJson json{{"model", answers.model},
                     {"task", answers.task},
                     {"rows", answers.rows},
                     {"changed", answers.changed},
                     {"shown", OrderedJson::array()}};
    for (const ChangedRow& row : answers.shown) {
      OrderedJson r{{"key", row.key},
                    {"gold", row.gold},
                    {"prompt", row.prompt},
                    {"left_out", row.prompt_left_out},
                    {"baseline", to_json(row.baseline)},
                    {"changed", OrderedJson::array()}};
      for (const auto& [variant, answer] : row.changed) r["changed"].push_back({variant, to_json(answer)});
      json["shown"].push_back(std::move(r));
    }
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace

std::string page_data(const Report& report, const PageOptions& options) {
  const StudyView& study = report.study;
  OrderedJson json{{"live", options.live},
                   {"progress", progress_of(study)},
                   {"comparisons", study.comparisons},
                   {"tasks", study.tasks},
                   {"head", OrderedJson::array()}};
  for (const auto& [name, value] : head_of(study)) json["head"].push_back({name, value});
  json["study_toml"] = study.meta_text("study_toml").value_or("");
  json["choices"] = choices(report);
  json["table1"] = table1_of(report);
  json["issues"] = issues_of(report.issues);
  json["rules"] = rules_of(report.issues);
  json["models"] = models(study);
  json["tables"] = tables(study);
  json["finetuned"] = finetuned_of(report.finetuned);
  json["answers"] = answers_of(report.answers);
  const std::string text = json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    if (c == '<')
      escaped += "\\u003c";
    else
      escaped += c;
  }
  return escaped;
}

}  // namespace nibble::report
