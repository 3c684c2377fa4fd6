#include <array>

#include "base/error.h"
#include "quant/method.h"
#include "quant/methods.h"

namespace nibble {
namespace {

constexpr std::array<Method, 5> kMethods = {{
    {"gptq",
     "error of each column spread over the later ones through the inverse Hessian, then coordinate descent",
     quantize_gptq, true, false, false},
    {"gptq+ff", "gptq, each layer also corrected for what those before it have lost", quantize_gptq, true,
     false, true},
    {"gsq", "activation-aware channel scales folded into the operation before, clipped groups",
     quantize_clipped, true, true, false},
    {"gsq+gptq", "gsq's channel scales, gptq on the weights so scaled", quantize_gptq, true, true, false},
    {"rtn", "round to nearest, no calibration", quantize_rtn, false, false, false},
}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

const Method& find_method(std::string_view name) {
  std::string known;
  for (const Method& method : kMethods) {
    if (method.name == name) return method;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", method.name);
  }
  throw UsageError(fmt::format("there is no method '{}'; there are {}", name, known));
}

}  // namespace nibble
