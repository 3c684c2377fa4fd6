// Products at full speed, out of registers: the ceiling that a kernel is measured against.
#pragma once

#include <cstdint>

#include "kernels/cpu/unroll.h"

namespace nibble {
namespace {

// step(sum) adds `products` products to each of kSums independent sums, so that latency does not show;
// returns the operations done, two a product.
template <int kSums = 12, class Acc, class Step>
double peak_of(int64_t rounds, Acc zero, int products, Step step) {
  Acc sums[kSums];
  NIBBLE_UNROLL for (int i = 0; i < kSums; ++i) sums[i] = zero;
  for (int64_t r = 0; r < rounds; ++r) {
    NIBBLE_UNROLL for (int i = 0; i < kSums; ++i) {
      sums[i] = step(sums[i]);
      asm volatile("" : "+x"(sums[i]));  // every step must happen
    }
  }
  return 2.0 * products * kSums * static_cast<double>(rounds);
}

template <class V>
double peak_i8(int64_t rounds) {
  typename V::I codes[4] = {V::iset(0x01020304), V::iset(0x02030401), V::iset(0x03040102),
                            V::iset(0x04010203)};
  const int8_t x[16] = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12, 13, -14, 15, -16};
  return peak_of<V::kPeakSums>(rounds, V::izero(), 16 * V::kLanes, [&](typename V::I sum) {
    NIBBLE_UNROLL for (int i = 0; i < 4; ++i) asm volatile("" : "+x"(codes[i]));  // as if they were others
    return V::template dot16<4>(sum, codes, x);
  });
}

template <class V>
double peak_f32(int64_t rounds) {
  const typename V::F a = V::set(1e-3f), b = V::set(1e-3f);
  return peak_of(rounds, V::zero(), V::kLanes, [&](typename V::F sum) { return V::fma(a, b, sum); });
}

}  // namespace
}  // namespace nibble
