#include "report/analysis_view.h"

#include <fmt/format.h>

#include <cmath>

namespace nibble::report {
namespace {

// A number of `object`, or NaN for null: what JSON has no number for.
double number_or_nan(const Json& object, const char* key, const std::string& where) {
  return json_get_or<double>(object, key, std::nan(""), where);
}

}  // namespace

std::string AnalysisView::Choice::label() const {
  return group_size > 0 ? fmt::format("{}-bit g{}", bits, group_size) : fmt::format("{}-bit row", bits);
}

std::string AnalysisView::Choice::key() const { return fmt::format("b{}.g{}", bits, group_size); }

std::string AnalysisView::probe_text() const {
  return probe.label() + (symmetric ? ", without zero points" : ", with zero points");
}

AnalysisView read_analysis(const Json& json, const std::string& where) {
  AnalysisView view;
  const Json probe = json_get<Json>(json, "probe", where);
  view.probe = {json_get<int>(probe, "bits", where), json_get<int>(probe, "group_size", where)};
  view.symmetric = json_get<bool>(json, "symmetric", where);
  view.tokens = json_get<int64_t>(json, "tokens", where);
  view.kl_positions = json_get<int64_t>(json, "kl_positions", where);
  const auto groups = json_get<std::vector<int>>(json, "group_sizes", where);
  for (const int bits : json_get<std::vector<int>>(json, "bits", where)) {
    for (const int group : groups) view.choices.push_back({bits, group});
  }
  for (const Json& entry : json_get<std::vector<Json>>(json, "linears", where)) {
    AnalyzedLinear& linear = view.linears.emplace_back();
    linear.name = json_get<std::string>(entry, "name", where);
    linear.layer = json_get<int>(entry, "layer", where);
    linear.kl = number_or_nan(entry, "kl", where);
    const Json errors = json_get<Json>(entry, "errors", where);
    for (const auto& [bits, group] : view.choices) {
      const Json by_group = json_get<Json>(errors, std::to_string(bits).c_str(), where);
      linear.errors.push_back(number_or_nan(by_group, std::to_string(group).c_str(), where));
    }
  }
  for (const Json& entry : json_get<std::vector<Json>>(json, "layers", where)) {
    const Json kl = json_get<Json>(entry, "kl", where);
    if (!kl.is_object() || kl.empty()) continue;
    view.group_sizes = groups;
    AnalysisView::Layer& layer = view.layers.emplace_back();
    layer.layer = json_get<int>(entry, "layer", where);
    for (const int group : groups)
      layer.kl.push_back(number_or_nan(kl, std::to_string(group).c_str(), where));
  }
  if (view.linears.empty()) fail("{}: names no linear", where);
  return view;
}

StoredAnalysis stored_analysis(const std::string& model, const Json& analysis) {
  if (analysis.is_null())
    return {std::nullopt, fmt::format("not analysed; nibble analyze {} --study DIR does it", model)};
  try {
    return {read_analysis(analysis, "the stored analysis"), ""};
  } catch (const Error& error) {
    return {std::nullopt, fmt::format("not readable, {}", error.what())};
  }
}

}  // namespace nibble::report
