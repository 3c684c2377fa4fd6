// Products of int16 columns: the tiles of a Gram matrix.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

// A pair of rows of 16 columns fills the vectors of one step; kRows columns of `a` share the loads of `b`.
template <class V>
void products_i16_of(const int16_t* a, const int16_t* b, int64_t pairs, int32_t* out) {
  constexpr int kVectors = kGramPanel / V::kLanes, kRows = kVectors == 1 ? 16 : 4;
  for (int first = 0; first < kGramPanel; first += kRows) {
    typename V::I sums[kRows][kVectors];
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v)
        sums[r][v] = V::izero();
    for (int64_t p = 0; p < pairs; ++p) {
      typename V::I right[kVectors];
      NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v) right[v] =
          V::iload(b + (p * kGramPanel + v * V::kLanes) * 2);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, a + (p * kGramPanel + first + r) * 2, 4);
        const typename V::I left = V::iset(pair);
        NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = V::dot16(sums[r][v], left, right[v]);
      }
    }
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v)
        V::istore(out + (first + r) * kGramPanel + v * V::kLanes, sums[r][v]);
  }
}

template <class V>
void products_i16(const int16_t* a, const int16_t* b, int64_t panels, int64_t pairs, int32_t* out) {
  for (int64_t p = 0; p < panels; ++p, b += pairs * kGramPanel * 2, out += kGramPanel * kGramPanel)
    products_i16_of<V>(a, b, pairs, out);
}

}  // namespace
}  // namespace nibble
