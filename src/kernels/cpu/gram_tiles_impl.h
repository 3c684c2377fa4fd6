// Products of columns by matrix tiles, the tiles of a Gram matrix.
//
// A panel is 32 columns of so many steps of 32 rows. A step of 16 columns is a tile either way: turned,
// [16 columns][32 rows], for the left factor, and [16 pairs of rows][16 columns][2] for the right one. A
// panel has the turned steps of its first 16 columns, those of the others, then both again for the right.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/tiles_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int64_t kTileValues = kTileRows * kStepInputs;
static_assert(kGramTile == 2 * kTileRows && kGramTile == kStepInputs && kGramStep == 4 * kTileValues);

template <class T, class V>
void gram_step(const float* x, int64_t ldx, int64_t rows, int64_t columns, uint16_t* panel, int64_t step,
               int64_t steps) {
  for (int64_t half = 0; half < 2; ++half) {
    uint16_t* const right = panel + ((2 + half) * steps + step) * kTileValues;
    for (int64_t pair = 0; pair < kTileRows; ++pair) {
      for (int64_t column = 0; column < kTileRows; column += V::kLanes) {
        const auto row = [&](int64_t r) {
          return r < rows ? part_of_row<V>(x + r * ldx, half * kTileRows + column, columns) : V::zero();
        };
        V::istore(right + (pair * kTileRows + column) * 2, T::pair(row(2 * pair), row(2 * pair + 1)));
      }
    }
    uint16_t* const left = panel + (half * steps + step) * kTileValues;
    T::pairs_of_rows(right, kStepInputs, kTileRows, kStepInputs, reinterpret_cast<uint32_t*>(left));
  }
}

template <class T, class V>
void gram_bf16(const uint16_t* a, const uint16_t* b, int64_t steps, int64_t filled, float* y, int64_t ldy,
               int64_t rows, int64_t columns) {
  alignas(64) float sums[kGramTile][kGramTile];
  T::configure(kTileRows, kTileRows);
  tiles_of_block<T, 2, 2>(a, steps * kTileValues,
                          reinterpret_cast<const uint32_t*>(b + 2 * steps * kTileValues), steps * kStepWords,
                          filled, {nullptr, 0, sums[0], kGramTile});
  T::release();
  for (int64_t r = 0; r < rows; ++r, y += ldy) {
    for (int64_t c = 0; c < columns; c += V::kLanes) {
      const int64_t valid = std::min<int64_t>(columns - c, V::kLanes);
      V::store(y + c, V::add(V::load(y + c, valid), V::load(sums[r] + c)), valid);
    }
  }
}

}  // namespace
}  // namespace nibble
