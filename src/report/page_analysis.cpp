#include "report/page_analysis.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

#include "eval/result.h"

namespace nibble::report {

OrderedJson short_number(double value) {
  if (!std::isfinite(value)) return json_number(value);
  return std::strtod(fmt::format("{:.4g}", value).c_str(), nullptr);
}

OrderedJson analysis_data(const StoredAnalysis& analysis) {
  if (!analysis.view) return {{"missing", analysis.missing}};
  const AnalysisView& a = *analysis.view;
  OrderedJson json{
      {"probe", a.probe_text()}, {"bits", a.probe.bits}, {"tokens", a.tokens}, {"positions", a.kl_positions}};
  json["choices"] = OrderedJson::array();
  for (const AnalysisView::Choice& choice : a.choices) json["choices"].push_back(choice.label());
  OrderedJson names = OrderedJson::array(), kl = OrderedJson::array(), errors = OrderedJson::array();
  for (const AnalyzedLinear& l : a.linears) {
    names.push_back(l.name);
    kl.push_back(short_number(l.kl));
  }
  for (size_t c = 0; c < a.choices.size(); ++c) {
    OrderedJson column = OrderedJson::array();
    for (const AnalyzedLinear& l : a.linears) column.push_back(short_number(l.errors[c]));
    errors.push_back(std::move(column));
  }
  json["linears"] = {{"name", std::move(names)}, {"errors", std::move(errors)}};
  if (a.has_kl()) json["linears"]["kl"] = std::move(kl);
  OrderedJson layers = OrderedJson::array();
  for (size_t g = 0; g < a.group_sizes.size(); ++g) {
    OrderedJson values = OrderedJson::array();
    for (const AnalysisView::Layer& layer : a.layers)
      values.push_back({layer.layer, short_number(layer.kl[g])});
    layers.push_back({AnalysisView::Choice{a.probe.bits, a.group_sizes[g]}.label(), std::move(values)});
  }
  json["layers"] = std::move(layers);
  return json;
}

}  // namespace nibble::report
