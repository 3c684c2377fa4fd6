// Inputs rounded to bf16 as KernelTable::dense_bf16_bf16 and packed_bf16 read them: x [m, k] as it is, or,
// where the table multiplies by tiles, in the order in which tiles are loaded: [m / 16][k / 32][16][32], both
// quotients rounded up, zeros behind the last input. What lies in a block behind row m is never read.
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace nibble {

inline constexpr int64_t kBf16TileRows = 16, kBf16TileInputs = 32;

// Values that m rows of k inputs take.
int64_t bf16_values(const KernelTable& table, int64_t m, int64_t k);

// Rows [begin, end) of x [m, k] to their places in `to`, bf16_values(table, m, k) values; round to nearest
// even.
void to_bf16_rows(const KernelTable& table, const float* x, int64_t k, int64_t begin, int64_t end,
                  uint16_t* to);

}  // namespace nibble
