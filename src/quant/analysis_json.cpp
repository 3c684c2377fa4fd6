#include "quant/analysis.h"

namespace nibble {
namespace {

OrderedJson errors_of(const Analysis& a, const LinearAnalysis& linear, bool by_gptq) {
  OrderedJson errors = OrderedJson::object();
  for (const int bits : a.options.bits) {
    OrderedJson& by_group = errors[std::to_string(bits)];
    for (const int group : a.options.group_sizes)
      by_group[std::to_string(group)] = a.error(linear, bits, group, by_gptq);
  }
  return errors;
}

std::vector<double> errors_from(const Json& errors, const Analysis& a, const std::string& where) {
  std::vector<double> values;
  for (const int bits : a.options.bits) {
    const Json by_group = json_get<Json>(errors, std::to_string(bits).c_str(), where);
    for (const int group : a.options.group_sizes)
      values.push_back(json_get<double>(by_group, std::to_string(group).c_str(), where));
  }
  return values;
}

}  // namespace

OrderedJson to_json(const Analysis& a) {
  OrderedJson linears = OrderedJson::array(), layers = OrderedJson::array();
  for (const LinearAnalysis& l : a.linears) {
    linears.push_back({{"name", l.name},
                       {"layer", l.layer},
                       {"shape", {l.n, l.k}},
                       {"errors", errors_of(a, l, false)},
                       {"gptq_errors", l.gptq_errors.empty() ? OrderedJson(nullptr) : errors_of(a, l, true)},
                       {"growth", a.growth(l)},
                       {"probe_error", l.probe_error},
                       {"kl", a.kl_positions > 0 ? OrderedJson(l.kl) : OrderedJson(nullptr)}});
  }
  for (const LayerAnalysis& l : a.layers) {
    OrderedJson kl = OrderedJson::object();
    for (size_t g = 0; g < l.kl.size(); ++g) kl[std::to_string(a.options.group_sizes[g])] = l.kl[g];
    layers.push_back({{"layer", l.layer}, {"kl", kl}, {"growth", a.growth(l)}});
  }
  const LayerPlan& probe = a.options.probe;
  return {{"bits", a.options.bits},
          {"group_sizes", a.options.group_sizes},
          {"symmetric", a.options.symmetric},
          {"scale_bits", a.options.scale_bits},
          {"probe", {{"bits", probe.bits}, {"group_size", probe.group_size}, {"symmetric", probe.symmetric}}},
          {"tokens", a.tokens},
          {"kl_positions", a.kl_positions},
          {"linears", linears},
          {"layers", layers}};
}

Analysis analysis_from_json(const Json& json, const std::string& where) {
  Analysis a;
  a.options.bits = json_get<std::vector<int>>(json, "bits", where);
  a.options.group_sizes = json_get<std::vector<int>>(json, "group_sizes", where);
  a.options.symmetric = json_get<bool>(json, "symmetric", where);
  a.options.scale_bits = json_get_or<int>(json, "scale_bits", 16, where);  // 16: by an earlier version
  const Json probe = json_get<Json>(json, "probe", where);
  a.options.probe.bits = json_get<int>(probe, "bits", where);
  a.options.probe.group_size = json_get<int>(probe, "group_size", where);
  a.options.probe.symmetric = json_get<bool>(probe, "symmetric", where);
  a.options.validate();
  a.tokens = json_get<int64_t>(json, "tokens", where);
  a.kl_positions = json_get<int64_t>(json, "kl_positions", where);
  for (const Json& entry : json_get<std::vector<Json>>(json, "linears", where)) {
    LinearAnalysis& l = a.linears.emplace_back();
    l.name = json_get<std::string>(entry, "name", where);
    l.layer = json_get<int>(entry, "layer", where);
    const auto shape = json_get<std::vector<int64_t>>(entry, "shape", where);
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1)
      fail("{}: {}: not the shape of a matrix", where, l.name);
    l.n = shape[0];
    l.k = shape[1];
    l.probe_error = json_get<double>(entry, "probe_error", where);
    if (a.kl_positions > 0) l.kl = json_get<double>(entry, "kl", where);
    l.errors = errors_from(json_get<Json>(entry, "errors", where), a, where);
    // Without it: by --rounding-only, or by an earlier version.
    if (entry.contains("gptq_errors") && !entry.at("gptq_errors").is_null())
      l.gptq_errors = errors_from(entry.at("gptq_errors"), a, where);
    a.options.gptq = !l.gptq_errors.empty();
  }
  return a;
}

}  // namespace nibble
