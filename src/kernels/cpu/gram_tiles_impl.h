// Products of int16 columns by matrix tiles of bytes: a value is 256·h + l, h signed and l not, so a product
// is four of bytes, whose sums are exact in int32 and so is their sum modulo 2³².
//
// 64 rows of a panel are four tiles of 1 KB: h and l as [16 columns][64 rows], for the left factor, then h
// and l as [16 × 4 rows][16 columns][4 rows], for the right one.
#pragma once

#include <cstdint>

#include "kernels/cpu/tiles_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int64_t kTilePairs = 32, kTileBytes = 1024, kTileStep = 4 * kTileBytes;

inline void gram_panel_of_tiles(const int16_t* columns, int64_t pairs, uint8_t* panel) {
  for (int64_t first = 0; first < pairs; first += kTilePairs, panel += kTileStep) {
    uint32_t high[16][kGramPanel], low[16][kGramPanel];  // four rows of a column
    for (int64_t four = 0; four < 16; ++four) {
      uint32_t two[2][kGramPanel];
      __builtin_memcpy(two, columns + (first + 2 * four) * kGramPanel * 2, sizeof two);
      for (int c = 0; c < kGramPanel; ++c) {
        const uint32_t a = two[0][c], b = two[1][c];
        low[four][c] = (a & 255u) | (a >> 8 & 0xff00u) | (b & 255u) << 16 | (b >> 16 & 255u) << 24;
        high[four][c] = (a >> 8 & 255u) | (a >> 16 & 0xff00u) | (b >> 8 & 255u) << 16 | (b & 0xff000000u);
      }
    }
    __builtin_memcpy(panel + 2 * kTileBytes, high, kTileBytes);
    __builtin_memcpy(panel + 3 * kTileBytes, low, kTileBytes);
    uint32_t turned[2][kGramPanel][16];
    for (int c = 0; c < kGramPanel; ++c) {
      for (int four = 0; four < 16; ++four) {
        turned[0][c][four] = high[four][c];
        turned[1][c][four] = low[four][c];
      }
    }
    __builtin_memcpy(panel, turned, 2 * kTileBytes);
  }
}

template <class T>
void products_i16_by_tiles(const uint8_t* a, const uint8_t* b, int64_t panels, int64_t pairs, int32_t* out) {
  constexpr int kSums = kGramPanel * kGramPanel;
  const int64_t steps = pairs / kTilePairs;
  T::configure(kTileRows, kTileRows);
  for (int64_t p = 0; p < panels; ++p, out += kSums) {
    T::template zero<0>();
    T::template zero<1>();
    T::template zero<2>();
    const uint8_t* left = a;
    for (int64_t s = 0; s < steps; ++s, left += kTileStep, b += kTileStep) {
      T::template load<4>(left, 64);
      T::template load<6>(b + 2 * kTileBytes, 64);
      T::template bytes<0, 4, 6, true, true>();
      T::template load<7>(b + 3 * kTileBytes, 64);
      T::template bytes<1, 4, 7, true, false>();
      T::template load<5>(left + kTileBytes, 64);
      T::template bytes<1, 5, 6, false, true>();
      T::template bytes<2, 5, 7, false, false>();
    }
    alignas(64) int32_t sums[3][kSums];
    T::template store<0>(sums[0]);
    T::template store<1>(sums[1]);
    T::template store<2>(sums[2]);
    for (int i = 0; i < kSums; ++i) {
      const auto high = static_cast<uint32_t>(sums[0][i]), mixed = static_cast<uint32_t>(sums[1][i]);
      out[i] = static_cast<int32_t>((high << 16) + (mixed << 8) + static_cast<uint32_t>(sums[2][i]));
    }
  }
  T::release();
}

template <class T, class V>
void put_tiles_into(KernelTable& t) {
  t.bf16_tiles = true;
  t.dense_bf16_bf16 = dense_by_tiles<T, V>;
  t.packed_bf16 = packed_bf16<T, V>;
  t.gram_pairs = kTilePairs;
  t.gram_bytes = kTileStep / kTilePairs;
  t.gram_panel = gram_panel_of_tiles;
  t.products_i16 = products_i16_by_tiles<T>;
}

}  // namespace
}  // namespace nibble
