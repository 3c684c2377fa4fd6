// What the quantizers could not do as asked, from the reports they left.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace nibble::report {

struct Fallback {
  std::string layer;     // "model.layers.3.mlp.down_proj"
  std::string fallback;  // what was done instead; empty for a remark: the method stayed as planned
  std::string reason;
};

// From "linears": [{"name", "fallback", "reason"}] of a quantization report (docs/results.md); entries with
// neither are as planned and left out.
std::vector<Fallback> fallbacks_of(const Json& quantization_report);

// What quantizers say of the whole model: "warnings": [text].
std::vector<std::string> warnings_of(const Json& quantization_report);

}  // namespace nibble::report
