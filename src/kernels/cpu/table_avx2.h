// The table of an instruction set of 8 lanes. Included only by kernels_avx*.cpp.
#pragma once

#include "kernels/cpu/table_impl.h"

namespace nibble {
namespace {

// Integer arithmetic as in float_to_bf16.
void to_bf16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    y[i] = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : rounded);
  }
}

template <class V>
constexpr KernelTable avx2_table_of(std::string_view name) {
  KernelTable t = table_of<V>();
  t.name = name;
  t.to_bf16 = to_bf16;
  return t;
}

}  // namespace
}  // namespace nibble
