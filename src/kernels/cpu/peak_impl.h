// Products at full speed, out of registers: the ceiling that a kernel is measured against.
#pragma once

#include <cstdint>

#include "kernels/cpu/unroll.h"

namespace nibble {
namespace {

constexpr int kPeakSums = 12;  // independent, so that latency does not show

// step(sum) adds one vector of products; returns the operations done, two a product.
template <class Acc, class Step>
double peak_of(int64_t rounds, Acc zero, int products, Step step) {
  Acc sums[kPeakSums];
  NIBBLE_UNROLL for (int i = 0; i < kPeakSums; ++i) sums[i] = zero;
  for (int64_t r = 0; r < rounds; ++r) {
    NIBBLE_UNROLL for (int i = 0; i < kPeakSums; ++i) {
      sums[i] = step(sums[i]);
      asm volatile("" : "+x"(sums[i]));  // every step must happen
    }
  }
  return 2.0 * products * kPeakSums * static_cast<double>(rounds);
}

template <class V>
double peak_i8(int64_t rounds) {
  const typename V::I u = V::iset(0x01020304), s = V::iset(0x04030201);
  return peak_of(rounds, V::izero(), 4 * V::kLanes,
                 [&](typename V::I sum) { return V::template dot<4>(sum, u, s); });
}

template <class V>
double peak_f32(int64_t rounds) {
  const typename V::F a = V::set(1e-3f), b = V::set(1e-3f);
  return peak_of(rounds, V::zero(), V::kLanes, [&](typename V::F sum) { return V::fma(a, b, sum); });
}

}  // namespace
}  // namespace nibble
