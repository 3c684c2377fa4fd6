#include "study/stored_analysis.h"

#include <fmt/format.h>

#include <vector>

#include "base/error.h"
#include "quant/analysis.h"

namespace nibble {

std::string model_with_weights(const Store& store, const std::string& sha256, const std::string& where) {
  std::vector<std::string> others;
  for (const Cell& cell : store.cells()) {
    if (!cell.variant.is_baseline()) continue;
    const std::string& model = cell.variant.model;
    if (!others.empty() && others.back() == model) continue;
    const auto facts = store.facts(cell.variant);
    if (facts && facts->sha256 == sha256) return model;
    others.push_back(facts ? model : model + " (not measured yet)");
  }
  if (others.empty()) fail("{}: the study has no model yet; run nibble study first", where);
  fail("{}: of other weights than the study's models: {}", where, fmt::join(others, ", "));
}

std::string add_analysis(Store& store, const Json& analysis, const std::string& where) {
  analysis_from_json(analysis, where);
  const auto sha256 = json_get_or<std::string>(analysis, "sha256", "", where);
  if (sha256.empty())
    fail("{}: does not say of which weights it is (an older nibble made it); run nibble analyze again",
         where);
  const std::string model = model_with_weights(store, sha256, where);
  store.set_analysis(model, analysis);
  return model;
}

}  // namespace nibble
