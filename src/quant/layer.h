// One linear from its plan to its integers, with every fallback that has to be said.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "quant/method.h"
#include "quant/plan.h"

namespace nibble {

// A line of the quantization report (docs/results.md).
struct LayerReport {
  std::string name;
  int64_t n = 0, k = 0;
  LayerPlan used;         // what was done in the end
  int64_t remainder = 0;  // inputs of the last, short group; 0: none is short
  bool act_order = false;
  double damp = 0;
  std::optional<double> error;      // ‖(W−Ŵ)X‖²/‖WX‖²; unknown without finite activations
  std::optional<double> rtn_error;  // the same for rounding at the plan's bits and group size
  float scale_exponent = 0;         // of GSQ's channel scales; 0 with scaled = false: none
  bool scaled = false;
  double fed_forward = 0;  // share of the correction for earlier layers' errors (quant/feed_forward.h)
  std::string fallback;    // what was used instead of the plan: "rtn", "group size 32", "8 bits", "16 bits"
  std::string reason;      // why; or what else had to be done
  double seconds = 0;
};
OrderedJson to_json(const LayerReport& report);
// Back from what to_json() made; throws Error naming `where`.
LayerReport layer_report(const Json& report, std::string_view where);

struct LayerOptions {
  double damp = 0.01;
  bool act_order = false;
  bool clip = true;          // GSQ: off for q and k, whose errors the softmax amplifies (as in AWQ)
  double error_limit = 0.3;  // relative output error above which a layer counts as broken
  double growth_limit = 4;   // times the error of groups of 16 that a larger group's rounding may lose
};

struct QuantizedLayer {
  std::optional<QuantizedMatrix> matrix;  // none: the layer stays at 16 bits
  LayerReport report;
};

// `weight` [n, k] and `input` as the method sees them (scaled for GSQ); `rtn_error`: of rounding the
// unscaled weights, where known. A group size at which rounding loses growth_limit times what it loses in
// groups of 16 is replaced by the largest at which it loses no more than 1.5 times. Tries the plan, then
// rounding where that is better, then smaller groups, 8 bits and 16 bits while the error is above the limit.
QuantizedLayer quantize_layer(const std::string& name, std::vector<float> weight, int64_t n,
                              const InputStatistics& input, const LayerPlan& plan,
                              std::optional<double> rtn_error, const LayerOptions& options, ThreadPool& pool);

// Replaces NaN and infinities by 0; returns how many there were.
int64_t clean_weights(std::vector<float>& weight);

// Relative output error of plain rounding; none without finite activations.
std::optional<double> rounding_error(std::span<const float> weight, const PackedFormat& format,
                                     const InputStatistics& input, ThreadPool& pool);

}  // namespace nibble
