// Activation-aware scales of the input channels (AWQ, Lin et al. 2023, arXiv:2306.00978): a channel
// that carries large activations is scaled up before rounding and down again in the operation
// before, so that its weights keep more precision.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/method.h"

namespace nibble {

// A linear that reads the scaled input.
struct ScaledLinear {
  std::span<const float> weight;  // [n, k]
  PackedFormat format;
};

struct ChannelScales {
  std::vector<float> scale;  // [channels]; all 1 when nothing was better
  float exponent = 0;        // of the activations' magnitude
  bool by_weight = false;    // divided by the weights' magnitude to 1 − exponent
  bool identity() const;
};

// The scales among x̄^r and x̄^r / w̄^(1−r), r = 0, 0.05 … 0.95, and 1, that give the least sum of
// output errors of rounding on the input's sample rows, each relative to the linear's own without
// scales, none of them worse. x̄: mean |x| of a channel; w̄: mean
// of |W| over its group's maximum. channel_of[i] in [0, channels) is input i's channel (several
// inputs share one where grouped-query attention repeats it).
ChannelScales search_scales(std::span<const ScaledLinear> linears, const InputStatistics& input,
                            std::span<const int> channel_of, int channels, ThreadPool& pool);

// weight [n, k] with input i multiplied (or divided) by its channel's scale; and the input divided by it
// (without what is known of the unquantized stream, which corrects weights before they are scaled).
void scale_inputs(std::vector<float>& weight, std::span<const int> channel_of, const ChannelScales& scales,
                  bool divide = false);
InputStatistics divide_input(const InputStatistics& input, std::span<const int> channel_of,
                             const ChannelScales& scales);

}  // namespace nibble
