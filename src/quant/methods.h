// The methods' entry points, for the registry.
#pragma once

#include "quant/method.h"

namespace nibble {

// Round to nearest on the group's whole range.
Quantized quantize_rtn(std::span<const float> weight, const InputStatistics& input,
                       const MethodOptions& options, ThreadPool& pool);

// GPTQ (Frantar et al. 2023, arXiv:2210.17323): columns from left to right, the error of each spread
// over the rest through the Cholesky factor of the inverse Hessian.
Quantized quantize_gptq(std::span<const float> weight, const InputStatistics& input,
                        const MethodOptions& options, ThreadPool& pool);

// GSQ's part after the scales: each group's range clipped where that lowers the group's output error
// (AWQ, arXiv:2306.00978), then the codes refined on the row's (quant/refine.h).
// The scales of the input channels are in `weight` and `input` already (quant/scaling.h).
Quantized quantize_clipped(std::span<const float> weight, const InputStatistics& input,
                           const MethodOptions& options, ThreadPool& pool);

}  // namespace nibble
