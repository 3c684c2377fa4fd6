#include "report/csv.h"

#include <fmt/format.h>

#include <cmath>

#include "report/columns.h"
#include "report/measures.h"

namespace nibble::report {
namespace {

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string shortest(std::optional<double> value) {
  if (!value || std::isnan(*value)) return "";
  return fmt::format("{}", *value);  // the shortest text that reads back as the same number
}

class Writer {
 public:
  // `cell` null: the row concerns the whole variant.
  void row(const VariantView& variant, const TaskView* cell, const std::string& measure, const Value& value) {
    const Variant& v = variant.variant;
    const TaskResult* r = cell && cell->result ? &*cell->result : nullptr;
    const std::string setting =
        r ? fmt::format("{},{},{},{}", csv_field(r->split), r->shots, r->seed, r->rows) : ",,,";
    out_ += fmt::format(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", csv_field(v.model), csv_field(v.method), v.bits,
        v.group_size, cell ? csv_field(cell->task) : "", setting, csv_field(measure), shortest(value.number),
        shortest(value.sd), shortest(value.ci_low), shortest(value.ci_high),
        value.missing.empty() ? "done" : "missing", csv_field(value.missing), csv_field(v.source));
  }
  void plain(const VariantView& variant, const TaskView* cell, const std::string& measure, double number) {
    Value value;
    value.number = number;
    if (std::isnan(number)) value.missing = "not a number";
    row(variant, cell, measure, value);
  }
  // Columns whose values do not apply to this row are left out.
  void columns(std::span<const Column> columns, const ColumnRow& at) {
    for (const Column& column : columns) {
      if (!column.is_number) continue;
      Value value = column.value(at);
      if (!value.number && value.missing.empty() && value.text == not_applicable().text) continue;
      if (!value.number && value.missing.empty()) value.missing = value.text;
      row(at.variant, at.task, column.key, value);
    }
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_ =
      "model,method,bits,group_size,task,split,shots,seed,rows,measure,value,sd,ci_low,ci_high,status,"
      "reason,source\n";
};

void write_bench(Writer& writer, const VariantView& variant) {
  const TaskView* bench = variant.find("bench");
  if (!bench || !bench->bench.is_array()) return;
  for (const Json& test : bench->bench) {
    if (!test.is_object() || !test.contains("tokens_per_s")) continue;
    Value value;
    value.number = json_get<double>(test["tokens_per_s"], "mean", "bench");
    value.sd = json_get_or<double>(test["tokens_per_s"], "sd", 0, "bench");
    const auto name = json_get<std::string>(test, "test", "bench");
    writer.row(variant, bench,
               fmt::format("bench.{}.b{}.tokens_per_s", name, json_get_or<int>(test, "batch", 1, "bench")),
               value);
  }
}

// Those that no column has.
void write_latencies(Writer& writer, const VariantView& variant, const TaskView& cell) {
  const TaskResult& r = *cell.result;
  const std::pair<const char*, const Percentiles*> kinds[] = {
      {"response", &r.latency_ms}, {"first_token", &r.first_token_ms}, {"per_token", &r.per_token_ms}};
  for (const auto& [kind, p] : kinds) {
    const bool response = p == &r.latency_ms;
    if (!(p->p50 > 0)) continue;  // a task of another kind has no such times
    const std::pair<const char*, double> all[] = {
        {"mean", p->mean}, {"min", p->min}, {"whisker_low", p->whisker_low},
        {"p25", p->p25},   {"p75", p->p75}, {"p90", p->p90},
        {"p95", p->p95},   {"p99", p->p99}, {"whisker_high", p->whisker_high},
        {"max", p->max}};
    for (const auto& [name, value] : all) {
      if (std::isnan(value) || (response && std::string_view(name) == "p95")) continue;
      writer.plain(variant, &cell, fmt::format("latency.{}.{}_ms", kind, name), value);
    }
  }
}

// Of a task's own process; the bench's are columns.
void write_memory(Writer& writer, const VariantView& variant, const TaskView& cell) {
  if (!cell.memory) return;
  const MemoryBytes& m = *cell.memory;
  const std::pair<const char*, double> parts[] = {{"weights", static_cast<double>(m.weights)},
                                                  {"kv_cache", static_cast<double>(m.kv_cache)},
                                                  {"workspace", static_cast<double>(m.workspace)},
                                                  {"other", static_cast<double>(other_bytes(m))}};
  for (const auto& [name, bytes] : parts)
    writer.plain(variant, &cell, fmt::format("memory_{}_bytes", name), bytes);
}

// Of the model in memory: blocks, embedding, head, norms and biases.
void write_parts(Writer& writer, const VariantView& variant) {
  if (!variant.facts || !variant.facts->parts.is_object()) return;
  for (const auto& [part, numbers] : variant.facts->parts.items()) {
    for (const char* key : {"parameters", "bytes"}) {
      if (numbers.is_object() && numbers.contains(key) && numbers[key].is_number())
        writer.plain(variant, nullptr, fmt::format("parts.{}.{}", part, key), numbers[key].get<double>());
    }
  }
}

// What each linear lost, by name: of quantized ones by their report.
void write_linears(Writer& writer, const VariantView& variant) {
  if (!variant.facts) return;
  const Json& report = variant.facts->quantization_report;
  if (!report.is_object() || !report.contains("linears") || !report["linears"].is_array()) return;
  for (const Json& linear : report["linears"]) {
    if (!linear.is_object() || !linear.contains("name") || !linear["name"].is_string()) continue;
    for (const char* key : {"error", "rtn_error"}) {
      if (linear.contains(key) && linear[key].is_number())
        writer.plain(variant, nullptr,
                     fmt::format("quantization.{}.{}", linear["name"].get<std::string>(), key),
                     linear[key].get<double>());
    }
  }
}

// Of the baseline, whose layers were rounded alone.
void write_analysis(Writer& writer, const ModelView& model) {
  const VariantView* baseline = model.baseline();
  if (!baseline || !model.analysis.view) return;
  const AnalysisView& a = *model.analysis.view;
  for (const AnalyzedLinear& l : a.linears) {
    if (a.has_kl())
      writer.plain(*baseline, nullptr, fmt::format("analysis.{}.kl.{}", l.name, a.probe.key()), l.kl);
    for (size_t c = 0; c < a.choices.size(); ++c)
      writer.plain(*baseline, nullptr, fmt::format("analysis.{}.error.{}", l.name, a.choices[c].key()),
                   l.errors[c]);
  }
  for (const AnalysisView::Layer& l : a.layers) {
    for (size_t g = 0; g < l.kl.size(); ++g) {
      const AnalysisView::Choice choice{a.probe.bits, a.group_sizes[g]};
      writer.plain(*baseline, nullptr, fmt::format("analysis.layer.{}.kl.{}", l.layer, choice.key()),
                   l.kl[g]);
    }
  }
}

// Of the fine-tuned model's variant: what quantization changed there, less what it changed in the base model.
void write_fine_tuned(Writer& writer, const FineTunedVariant& v) {
  for (const FineTunedMeasure& m : v.measures) {
    const TaskView* cell = v.tuned->find(m.is_distance ? "kl" : m.name);
    const std::string prefix = "finetuning." + m.name;
    if (!m.missing.empty()) {
      Value missing;
      missing.missing = m.missing;
      writer.row(*v.tuned, cell, prefix + ".difference", missing);
      continue;
    }
    for (const auto& [name, value] : {std::pair{"base", m.base}, std::pair{"finetuned", m.tuned},
                                      std::pair{"difference", m.difference}, std::pair{"stderr", m.error}})
      writer.plain(*v.tuned, cell, fmt::format("{}.{}", prefix, name), value);
  }
  for (const auto& layer : v.layers) {
    for (const auto& [name, value] : {std::pair{"base", layer.base}, std::pair{"finetuned", layer.tuned},
                                      std::pair{"growth", layer.growth()}})
      writer.plain(*v.tuned, nullptr, fmt::format("finetuning.{}.error.{}", layer.name, name), value);
  }
}

}  // namespace

std::string render_csv(const Report& report) {
  Writer writer;
  for (const ModelView& model : report.study.models) {
    for (const VariantView& variant : model.variants) {
      writer.columns(efficiency_columns(), {model, variant, nullptr});
      write_bench(writer, variant);
      write_parts(writer, variant);
      write_linears(writer, variant);
      for (const TaskView& cell : variant.tasks) {
        if (!cell.missing.empty()) {
          Value missing;
          missing.missing = cell.missing;
          writer.row(variant, &cell, "score", missing);
        }
        if (!cell.result) continue;
        writer.columns(score_columns(), {model, variant, &cell});
        writer.columns(speed_columns(), {model, variant, &cell});
        for (const auto& [name, m] : cell.result->metrics) {
          Value value;
          value.number = m.value;
          value.sd = std::nullopt;
          value.ci_low = m.ci_low;
          value.ci_high = m.ci_high;
          if (std::isnan(m.value)) value.missing = "not a number";
          writer.row(variant, &cell, "metric." + name, value);
        }
        write_memory(writer, variant, cell);
        write_latencies(writer, variant, cell);
        for (const auto& [name, value] : cell.result->checks)
          writer.plain(variant, &cell, "check." + name, value);
      }
    }
    write_analysis(writer, model);
  }
  for (const FineTunedPair& pair : report.finetuned) {
    for (const FineTunedVariant& v : pair.variants) write_fine_tuned(writer, v);
  }
  return writer.take();
}

}  // namespace nibble::report
