#include "kernels/bf16_rows.h"

#include <algorithm>

namespace nibble {
namespace {

int64_t tiles_beside(int64_t k) { return (k + kBf16TileInputs - 1) / kBf16TileInputs; }

}  // namespace

int64_t bf16_values(const KernelTable& table, int64_t m, int64_t k) {
  if (!table.bf16_tiles) return m * k;
  return (m + kBf16TileRows - 1) / kBf16TileRows * kBf16TileRows * tiles_beside(k) * kBf16TileInputs;
}

void to_bf16_rows(const KernelTable& table, const float* x, int64_t k, int64_t begin, int64_t end,
                  uint16_t* to) {
  if (!table.bf16_tiles) return table.to_bf16(x + begin * k, to + begin * k, (end - begin) * k);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t in = row % kBf16TileRows;
    uint16_t* out = to + ((row - in) * tiles_beside(k) + in) * kBf16TileInputs;
    for (int64_t c = 0; c < k; c += kBf16TileInputs, out += kBf16TileRows * kBf16TileInputs) {
      const int64_t count = std::min(kBf16TileInputs, k - c);
      table.to_bf16(x + row * k + c, out, count);
      std::fill(out + count, out + kBf16TileInputs, uint16_t{0});
    }
  }
}

}  // namespace nibble
