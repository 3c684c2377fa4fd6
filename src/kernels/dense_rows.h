// Dense weights as float32, whatever type they lie in.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace nibble {

// out[count, w.k] = the rows first … first + count − 1 of w.
void dense_rows(const DenseView& w, int64_t first, int64_t count, float* out,
                const KernelTable& table = kernels());

std::vector<float> dense_values(const DenseView& w);  // [n, k]

}  // namespace nibble
