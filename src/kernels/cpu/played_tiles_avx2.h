// Matrix tiles that plain code plays, for tests on every machine with AVX2. Included only by *_avx2_test.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table_avx2.h"
#include "kernels/cpu/table_tiles.h"
#include "kernels/ops.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

// What the instructions do, as far as the kernels use them: AmxTiles of kernels_amx.cpp.
struct PlayedTiles {
  static inline thread_local uint32_t data[8][16][16];
  static inline thread_local int64_t rows[8];

  static void configure(int64_t few, int64_t more) {
    const int64_t all[8] = {few, few, more, more, few, more, 16, 16};
    std::copy_n(all, 8, rows);
    std::memset(data, 0x7f, sizeof data);  // NaN: what was not loaded must not be used
  }
  static void release() { std::fill_n(rows, 8, 0); }
  template <int kTile>
  static void zero() {
    std::memset(data[kTile], 0, sizeof data[kTile]);
  }
  template <int kTile>
  static void load(const void* from, int64_t apart) {
    for (int64_t r = 0; r < rows[kTile]; ++r)
      std::memcpy(data[kTile][r], static_cast<const char*>(from) + r * apart, 64);
  }
  template <int kTile>
  static void load_once(const void* from, int64_t apart) {
    load<kTile>(from, apart);
  }
  template <int kTile>
  static void store(void* to, int64_t apart) {
    for (int64_t r = 0; r < rows[kTile]; ++r)
      std::memcpy(static_cast<char*>(to) + r * apart, data[kTile][r], 64);
  }
  template <int kSums, int kX, int kW>
  static void dot() {
    for (int64_t r = 0; r < rows[kSums]; ++r) {
      for (int c = 0; c < 16; ++c) {
        float before, sum = 0;  // of this product alone, as Intel's manual says
        std::memcpy(&before, &data[kSums][r][c], 4);
        for (int p = 0; p < 16; ++p) {
          const uint32_t x = data[kX][r][p], w = data[kW][p][c];
          sum = std::fma(half_of(x, 0), half_of(w, 0), sum);
          sum = std::fma(half_of(x, 16), half_of(w, 16), sum);
        }
        sum += before;
        std::memcpy(&data[kSums][r][c], &sum, 4);
      }
    }
  }
  static float half_of(uint32_t pair, int at) { return bf16_to_float(static_cast<uint16_t>(pair >> at)); }

  static void pairs_of_rows(const uint16_t* from, int64_t apart, int64_t count, int64_t inputs,
                            uint32_t* out) {
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t p = 0; p < 16; ++p) {
        const auto value = [&](int64_t c) {
          return r < count && c < inputs ? uint32_t{from[r * apart + c]} : 0u;
        };
        out[p * 16 + r] = value(2 * p) | value(2 * p + 1) << 16;
      }
    }
  }
  static __m256i pair(__m256 low, __m256 high) {
    float values[2][8];
    _mm256_storeu_ps(values[0], low);
    _mm256_storeu_ps(values[1], high);
    uint32_t words[8];
    for (int i = 0; i < 8; ++i)
      words[i] = float_to_bf16(values[0][i]) | uint32_t{float_to_bf16(values[1][i])} << 16;
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  }
};

// "played", or the processor's own by its name; null where this processor cannot.
const KernelTable* table_with_tiles(std::string_view name) {
  if (name != "played") return kernels_named(name);
  if (!isa::avx2()) return nullptr;
  static const KernelTable table = [] {
    KernelTable t = avx2_table_of<Avx2>("played");
    put_tiles_into<PlayedTiles, Avx2>(t);
    return t;
  }();
  return &table;
}

}  // namespace
}  // namespace nibble
