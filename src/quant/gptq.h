// GPTQ's inner loop, apart from how its Hessian came about.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/method.h"

namespace nibble {

// Quantizes the rows of `weight` [n, k] column by column in the order given; `factor` [k, k] is the
// upper Cholesky factor of the inverse Hessian, rows and columns in that order. A group's grid is
// fitted when its first column comes, on the weights as they are then (columns in their natural
// order), or on the original weights (any other order).
QuantizedMatrix gptq_loop(std::vector<float> weight, const std::vector<float>& factor,
                          std::span<const int64_t> order, const PackedFormat& format, ThreadPool& pool);

}  // namespace nibble
