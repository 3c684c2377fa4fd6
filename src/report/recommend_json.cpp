#include <cmath>

#include "report/json_parts.h"
#include "report/recommend.h"

namespace nibble::report {
namespace {

OrderedJson to_json(const Figure& figure) {
  OrderedJson json = OrderedJson::object();
  if (figure.known()) {
    json["value"] = number(figure.value);
    json["range"] = {number(figure.low), number(figure.high)};
    json["basis"] = figure.basis;
  } else {
    json["missing"] = figure.missing;
  }
  if (figure.predicted) json["predicted"] = true;
  return json;
}

const char* status_name(Status status) {
  switch (status) {
    case Status::kMeets:
      return "meets";
    case Status::kMeetsNarrowly:
      return "meets narrowly";
    case Status::kFailsNarrowly:
      return "fails narrowly";
    case Status::kFails:
      return "fails";
    case Status::kMissing:
      break;
  }
  return "missing";
}

OrderedJson to_json(const Check& check) {
  OrderedJson json{{"limit", check.key}, {"name", check.full_name()}, {"status", status_name(check.status)}};
  if (check.key != "score") json[check.at_most ? "at_most" : "at_least"] = number(check.limit);
  json["measured"] = to_json(check.figure);
  return json;
}

OrderedJson to_json(const TaskStanding& s) {
  OrderedJson json{{"task", s.task}, {"standing", standing_name(s.standing)}};
  if (!s.unknown.empty()) {
    json["missing"] = s.unknown;
    return json;
  }
  json["scale"] = s.bits_per_byte ? "ln_bits_per_byte_ratio" : s.is_ratio ? "ln_ppl_ratio" : "share";
  json["difference"] = number(s.difference);
  json["ci95"] = {number(s.ci_low), number(s.ci_high)};
  json["smallest_detectable"] = number(s.smallest_detectable);
  json["p"] = number(s.p);
  json["p_holm"] = number(s.p_holm);
  return json;
}

OrderedJson to_json(const Recommendation& r, size_t i) {
  const Candidate& c = r.candidates[i];
  OrderedJson json{{"label", c.label()}};
  json.update(id_of(c.variant->variant));
  json["feasible"] = c.feasible();
  json["on_pareto_front"] = c.on_front;
  json["file_bytes"] = to_json(c.size);
  json["peak_memory_bytes"] = to_json(c.memory);
  json["decode_tokens_per_s"] = to_json(c.decode);
  json["scores"] = OrderedJson::array();
  for (const TaskScore& s : c.scores) {
    const Metric& m = *s.cell->primary();
    json["scores"].push_back({{"task", s.task},
                              {"metric", s.cell->result->primary},
                              {"value", number(m.value)},
                              {"ci95", {number(m.ci_low), number(m.ci_high)}}});
  }
  json["limits"] = OrderedJson::array();
  for (const Check& check : c.checks) json["limits"].push_back(to_json(check));
  json["against_leader"] = OrderedJson::array();
  for (const TaskStanding& s : r.against[i].tasks) json["against_leader"].push_back(to_json(s));
  if (i != r.choice) json["why_not"] = why_not(r, i);
  return json;
}

OrderedJson labels(const Recommendation& r, const std::vector<size_t>& which) {
  OrderedJson json = OrderedJson::array();
  for (const size_t i : which) json.push_back(r.candidates[i].label());
  return json;
}

OrderedJson label_or_null(const Recommendation& r, const std::optional<size_t>& i) {
  return i ? OrderedJson(r.candidates[*i].label()) : OrderedJson();
}

OrderedJson to_json(const Specification& spec) {
  OrderedJson json = OrderedJson::object();
  const auto add = [&](const char* key, const std::optional<double>& limit) {
    if (limit) json[key] = number(*limit);
  };
  add("max_size_bytes", spec.max_size);
  add("max_memory_bytes", spec.max_memory);
  add("min_throughput_tokens_per_s", spec.min_throughput);
  add("max_latency_ms", spec.max_latency);
  add("min_accuracy", spec.min_accuracy);
  add("min_accuracy_kept", spec.min_accuracy_kept);
  add("max_perplexity_ratio", spec.max_perplexity_ratio);
  add("bandwidth_bytes_per_s", spec.bandwidth);
  add("memory_bytes", spec.memory);
  json["prefer"] = prefer_name(spec.prefer);
  json["tolerance"] = number(spec.tolerance);
  return json;
}

}  // namespace

std::string_view verdict_name(const Recommendation& r) {
  return !r.choice ? "none" : r.is_tie() ? "tie" : "clear";
}

OrderedJson to_json(const Recommendation& r) {
  OrderedJson json;
  json["verdict"] = verdict_name(r);
  json["choice"] = label_or_null(r, r.choice);
  json["nearest"] = label_or_null(r, r.nearest);
  json["best_quantized"] = label_or_null(r, r.best_quantized);
  json["leader"] = label_or_null(r, r.leader);
  json["as_good"] = labels(r, r.tied);
  json["same_cost"] = labels(r, r.equal);
  json["another_run_could_prefer"] = labels(r, r.rivals);
  json["limits_could_turn_to"] = labels(r, r.overturning);
  json["specification"] = to_json(r.spec);
  json["tasks"] = r.tasks;
  json["issues"] = OrderedJson::array();
  for (const Warning& w : r.warnings)
    json["issues"].push_back({{"rule", w.rule}, {"title", w.title}, {"figures", w.figures}});
  json["candidates"] = OrderedJson::array();
  if (r.choice) json["candidates"].push_back(to_json(r, *r.choice));
  for (const size_t i : runners_up(r)) json["candidates"].push_back(to_json(r, i));
  return json;
}

}  // namespace nibble::report
