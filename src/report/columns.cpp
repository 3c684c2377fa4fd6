#include "report/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "report/format.h"
#include "report/measures.h"

namespace nibble::report {
namespace {

constexpr std::string_view kNotApplicable = "–";

Value text(std::string s) {
  Value value;
  value.text = std::move(s);
  return value;
}
Value figure(std::string s, double n) {
  Value value = text(std::move(s));
  value.number = n;
  return value;
}
Value figure(std::string s, double n, double ci_low, double ci_high) {
  Value value = figure(std::move(s), n);
  value.ci_low = ci_low;
  value.ci_high = ci_high;
  return value;
}
Value missing(std::string why) {
  Value value;
  value.missing = std::move(why);
  return value;
}
Value count(double n) { return figure(fixed(n, 0), n); }

Value model(const ColumnRow& row) { return text(row.model.name); }
Value configuration(const ColumnRow& row) { return text(row.variant.label()); }
Value dataset(const ColumnRow& row) { return text(row.task->task); }

// A value of the cell's result, of its comparison with the baseline, of its memory.
template <typename F>
Value of_result(const ColumnRow& row, F f) {
  return row.task->result ? f(*row.task->result) : missing(row.task->missing);
}
template <typename F>
Value of_comparison(const ColumnRow& row, F f) {
  if (!row.task->result) return missing(row.task->missing);
  if (row.variant.variant.is_baseline()) return not_applicable();
  const Comparison& c = row.task->to_baseline;
  return c.comparable() ? f(c) : missing("not comparable: " + c.not_comparable);
}
template <typename F>
Value of_facts(const ColumnRow& row, F f) {
  return row.variant.facts ? f(*row.variant.facts) : missing("no facts stored");
}
template <typename F>
Value of_bench_memory(const ColumnRow& row, F f) {
  if (const MemoryBytes* memory = bench_memory(row.variant)) {
    const double bytes = f(*memory);
    return figure(megabytes(bytes), bytes);
  }
  const TaskView* bench = row.variant.find("bench");
  return missing(!bench                    ? "bench not planned"
                 : !bench->missing.empty() ? bench->missing
                                           : "no memory stored");
}

Value rows(const ColumnRow& row) {
  return of_result(row, [](const TaskResult& r) { return count(static_cast<double>(r.rows)); });
}

Value metric(const ColumnRow& row) {
  return of_result(row,
                   [](const TaskResult& r) { return text(is_perplexity(r) ? r.primary : r.primary + " %"); });
}

Value score(const ColumnRow& row) {
  return of_result(row, [&](const TaskResult& r) {
    const Metric* m = row.task->primary();
    if (!m) return missing(fmt::format("no metric '{}'", r.primary));
    return figure(is_perplexity(r) ? perplexity(m->value) : percent(m->value), m->value, m->ci_low,
                  m->ci_high);
  });
}

Value score_interval(const ColumnRow& row) {
  return of_result(row, [&](const TaskResult& r) {
    const Metric* m = row.task->primary();
    if (!m) return missing(fmt::format("no metric '{}'", r.primary));
    const auto print = [&](double v) { return is_perplexity(r) ? perplexity(v) : percent(v); };
    if (std::isnan(m->ci_low) || std::isnan(m->ci_high)) return missing("too few rows");
    return text(interval(print(m->ci_low), print(m->ci_high)));
  });
}

Value difference(const ColumnRow& row) {
  return of_comparison(
      row, [](const Comparison& c) { return figure(difference_text(c), c.difference, c.ci_low, c.ci_high); });
}

Value significance(const ColumnRow& row) {
  return of_comparison(row, [](const Comparison& c) { return text(std::string(verdict_word(c.verdict))); });
}

Value detectable(const ColumnRow& row) {
  return of_comparison(row,
                       [](const Comparison& c) { return figure(detectable_text(c), c.smallest_detectable); });
}

Value flips(const ColumnRow& row, int Comparison::*member) {
  return of_comparison(row,
                       [&](const Comparison& c) { return c.is_ratio ? not_applicable() : count(c.*member); });
}
Value right_to_wrong(const ColumnRow& row) { return flips(row, &Comparison::right_to_wrong); }
Value wrong_to_right(const ColumnRow& row) { return flips(row, &Comparison::wrong_to_right); }
Value p_plain(const ColumnRow& row) {
  return of_comparison(row, [](const Comparison& c) { return figure(p_value(c.p), c.p); });
}
Value p_holm(const ColumnRow& row) {
  return of_comparison(row, [](const Comparison& c) { return figure(p_value(c.p_holm), c.p_holm); });
}

// A measurement of time or speed that a task of another kind does not have is 0 in the store.
Value positive(const ColumnRow& row, double (*get)(const TaskResult&)) {
  return of_result(row, [&](const TaskResult& r) {
    const double v = get(r);
    return v > 0 ? figure(three_digits(v), v) : not_applicable();
  });
}
Value latency_p50(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.latency_ms.p50; });
}
Value latency_p95(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.latency_ms.p95; });
}
Value first_token_p50(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.first_token_ms.p50; });
}
Value per_token_p50(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.per_token_ms.p50; });
}
Value prompt_rate(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.prompt_tokens_per_s; });
}
Value output_rate(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.output_tokens_per_s; });
}
Value task_seconds(const ColumnRow& row) {
  return positive(row, [](const TaskResult& r) { return r.seconds; });
}
Value task_peak(const ColumnRow& row) {
  if (!row.task->missing.empty()) return missing(row.task->missing);
  if (!row.task->memory) return missing("no memory stored");
  const double bytes = static_cast<double>(row.task->memory->peak_rss);
  return figure(megabytes(bytes), bytes);
}

Value file_bytes(const ColumnRow& row) {
  return of_facts(row, [](const VariantFacts& f) {
    return figure(megabytes(static_cast<double>(f.file_bytes)), static_cast<double>(f.file_bytes));
  });
}

Value bits_per_weight(const ColumnRow& row) {
  return of_facts(row, [](const VariantFacts& f) {
    if (f.file_bytes == 0 || f.parameters == 0) return missing("file size or parameter count not stored");
    const double bits = 8.0 * static_cast<double>(f.file_bytes) / static_cast<double>(f.parameters);
    return figure(fixed(bits, 2), bits);
  });
}

// How many times smaller than `bits` a weight the file is; a ratio that the bits rule out is named, not
// claimed.
Value compression(const ColumnRow& row, int bits) {
  return of_facts(row, [&](const VariantFacts& f) {
    if (f.file_bytes == 0 || f.parameters == 0) return missing("file size or parameter count not stored");
    const double ratio = static_cast<double>(f.parameters) * bits / 8 / static_cast<double>(f.file_bytes);
    const double most = static_cast<double>(bits) / row.variant.variant.bits;
    if (!row.variant.variant.is_baseline() && ratio > most) {
      return text(fmt::format("impossible ({}× > {}×)", fixed(ratio, 2), fixed(most, 2)));
    }
    return figure(fixed(ratio, 2) + "×", ratio);
  });
}
Value against_bf16(const ColumnRow& row) { return compression(row, 16); }
Value against_fp32(const ColumnRow& row) { return compression(row, 32); }

Value of_distance(const ColumnRow& row, Value (*print)(const Distance&)) {
  const TaskView* cell = row.variant.find(kDistance);
  if (!cell) {
    const bool alone = !row.variant.variant.is_baseline() && !row.model.baseline();
    return alone ? missing(kNoBaseline) : not_applicable();
  }
  if (const auto distance = distance_of(row.variant)) return print(*distance);
  return missing(cell->missing);
}
Value kl(const ColumnRow& row) {
  return of_distance(row, [](const Distance& d) {
    return figure(
        fmt::format("{} {}", three_digits(d.kl), interval(three_digits(d.kl_low), three_digits(d.kl_high))),
        d.kl, d.kl_low, d.kl_high);
  });
}
Value top1_agreement(const ColumnRow& row) {
  return of_distance(row,
                     [](const Distance& d) { return figure(percent(d.top1_agreement), d.top1_agreement); });
}

Value bench_speed(const ColumnRow& row, std::string_view prefix) {
  if (const auto rate = bench_rate(row.variant, prefix)) {
    Value value =
        figure(fmt::format("{} ± {}", three_digits(rate->mean), three_digits(rate->sd)), rate->mean);
    value.sd = rate->sd;
    return value;
  }
  const TaskView* bench = row.variant.find("bench");
  return missing(!bench                    ? "bench not planned"
                 : !bench->missing.empty() ? bench->missing
                                           : fmt::format("no {} test stored", prefix));
}
Value prefill_rate(const ColumnRow& row) { return bench_speed(row, "pp"); }
Value decode_rate(const ColumnRow& row) { return bench_speed(row, "tg"); }

Value bench_latency(const ColumnRow& row, const char* percentile) {
  const Json* test = bench_test(row.variant, "tg");
  if (!test) return bench_speed(row, "tg");
  const auto latency = test->find("latency_ms");
  if (latency == test->end() || !latency->is_object() || !latency->contains(percentile) ||
      !latency->at(percentile).is_number()) {
    return missing("no latency stored");
  }
  const double ms = latency->at(percentile).get<double>();
  return figure(three_digits(ms), ms);
}
Value bench_p50(const ColumnRow& row) { return bench_latency(row, "p50"); }
Value bench_p95(const ColumnRow& row) { return bench_latency(row, "p95"); }

Value memory_weights(const ColumnRow& row) {
  return of_bench_memory(row, [](const MemoryBytes& m) { return static_cast<double>(m.weights); });
}
Value memory_kv_cache(const ColumnRow& row) {
  return of_bench_memory(row, [](const MemoryBytes& m) { return static_cast<double>(m.kv_cache); });
}
Value memory_workspace(const ColumnRow& row) {
  return of_bench_memory(row, [](const MemoryBytes& m) { return static_cast<double>(m.workspace); });
}
Value memory_other(const ColumnRow& row) {
  return of_bench_memory(row, [](const MemoryBytes& m) { return other_bytes(m); });
}
Value memory_peak(const ColumnRow& row) {
  return of_bench_memory(row, [](const MemoryBytes& m) { return static_cast<double>(m.peak_rss); });
}

Value quantize_seconds(const ColumnRow& row) {
  if (!row.variant.variant.is_made_here()) return not_applicable();
  return of_facts(
      row, [](const VariantFacts& f) { return figure(fixed(f.quantize_seconds, 1), f.quantize_seconds); });
}

constexpr Column kScore[] = {
    {"model", "Model", Align::kLeft, false, model},
    {"configuration", "Configuration", Align::kLeft, false, configuration},
    {"dataset", "Dataset", Align::kLeft, false, dataset},
    {"rows", "Rows", Align::kRight, true, rows},
    {"metric", "Metric", Align::kLeft, false, metric},
    {"score", "Score", Align::kRight, true, score},
    {"score_ci95", "95 % interval", Align::kLeft, false, score_interval},
    {"difference", "Difference to baseline", Align::kLeft, true, difference},
    {"significance", "Significance", Align::kLeft, false, significance},
    {"smallest_detectable", "Detectable", Align::kRight, true, detectable},
    {"right_to_wrong", "Right→wrong", Align::kRight, true, right_to_wrong},
    {"wrong_to_right", "Wrong→right", Align::kRight, true, wrong_to_right},
    {"p", "p", Align::kRight, true, p_plain},
    {"p_holm", "p (Holm)", Align::kRight, true, p_holm},
};

constexpr Column kSpeed[] = {
    {"model", "Model", Align::kLeft, false, model},
    {"configuration", "Configuration", Align::kLeft, false, configuration},
    {"dataset", "Dataset", Align::kLeft, false, dataset},
    {"latency_p50_ms", "Latency p50 ms", Align::kRight, true, latency_p50},
    {"latency_p95_ms", "p95 ms", Align::kRight, true, latency_p95},
    {"first_token_p50_ms", "First token ms", Align::kRight, true, first_token_p50},
    {"per_token_p50_ms", "Per token ms", Align::kRight, true, per_token_p50},
    {"prompt_tokens_per_s", "Prompt tokens/s", Align::kRight, true, prompt_rate},
    {"output_tokens_per_s", "Output tokens/s", Align::kRight, true, output_rate},
    {"seconds", "Seconds", Align::kRight, true, task_seconds},
    {"peak_rss_bytes", "Peak RSS MB", Align::kRight, true, task_peak},
};

constexpr Column kEfficiency[] = {
    {"model", "Model", Align::kLeft, false, model},
    {"configuration", "Configuration", Align::kLeft, false, configuration},
    {"file_bytes", "File MB", Align::kRight, true, file_bytes},
    {"bits_per_weight", "Bits/weight", Align::kRight, true, bits_per_weight},
    {"compression_bf16", "vs bf16", Align::kRight, true, against_bf16},
    {"compression_fp32", "vs fp32", Align::kRight, true, against_fp32},
    {"kl_nats", "KL to baseline", Align::kRight, true, kl},
    {"top1_agreement", "Same top-1 %", Align::kRight, true, top1_agreement},
    {"prefill_tokens_per_s", "Prefill tokens/s", Align::kRight, true, prefill_rate},
    {"decode_tokens_per_s", "Decode tokens/s", Align::kRight, true, decode_rate},
    {"decode_latency_p50_ms", "Decode p50 ms", Align::kRight, true, bench_p50},
    {"decode_latency_p95_ms", "p95 ms", Align::kRight, true, bench_p95},
    {"memory_weights_bytes", "Weights MB", Align::kRight, true, memory_weights},
    {"memory_kv_cache_bytes", "KV cache MB", Align::kRight, true, memory_kv_cache},
    {"memory_workspace_bytes", "Workspace MB", Align::kRight, true, memory_workspace},
    {"memory_other_bytes", "Other MB", Align::kRight, true, memory_other},
    {"bench_peak_rss_bytes", "Peak RSS MB", Align::kRight, true, memory_peak},
    {"quantize_seconds", "Quantized in s", Align::kRight, true, quantize_seconds},
};

}  // namespace

std::span<const Column> score_columns() { return kScore; }
std::span<const Column> speed_columns() { return kSpeed; }
std::span<const Column> efficiency_columns() { return kEfficiency; }

std::string shown(const Value& value) {
  return value.missing.empty() ? value.text : fmt::format("missing ({})", value.missing);
}

Value not_applicable() { return text(std::string(kNotApplicable)); }

TextTable to_table(std::span<const Column> columns, const std::vector<ColumnRow>& rows,
                   std::initializer_list<std::string_view> without) {
  TextTable table;
  table.rows.resize(rows.size());
  std::vector<std::set<std::string>> said(rows.size());  // reasons that a row already gives
  for (const Column& column : columns) {
    if (std::find(without.begin(), without.end(), column.key) != without.end()) continue;
    std::vector<std::string> cells;
    size_t not_applicable_here = 0, repeated = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const Value value = column.value(rows[i]);
      const bool again = !value.missing.empty() && said[i].contains(value.missing);
      repeated += again;
      not_applicable_here += value.missing.empty() && value.text == kNotApplicable;
      cells.push_back(again ? "missing" : shown(value));
    }
    if (not_applicable_here > 0 && not_applicable_here + repeated == rows.size()) continue;
    table.heads.push_back({column.title, column.align});
    for (size_t i = 0; i < rows.size(); ++i) {
      const Value value = column.value(rows[i]);
      if (!value.missing.empty()) said[i].insert(value.missing);
      table.rows[i].push_back(std::move(cells[i]));
    }
  }
  return table;
}

}  // namespace nibble::report
