// Matrices of random numbers for tests of kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "kernels/ops.h"
#include "tensor/dtype.h"
#include "tensor/packed.h"

namespace nibble {

inline float normal(Random& random) {
  const double u = random.uniform() + 1e-12, v = random.uniform();
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
}

inline std::vector<float> normals(size_t n, uint64_t seed, float scale = 1) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = scale * normal(random);
  return values;
}

// With float32 scales zero points too are wide: up to one above the codes.
inline QuantizedMatrix random_quantized(int bits, int group, bool symmetric, int64_t n, int64_t k,
                                        uint64_t seed, ScaleType type = ScaleType::kF16) {
  PackedFormat f{bits, group, symmetric, n, k};
  f.scale_type = type;
  f.wide_zeros = type == ScaleType::kF32 && bits <= 4;
  QuantizedMatrix q(f);
  Random random(seed);
  for (auto& c : q.codes) c = static_cast<uint8_t>(random.below(static_cast<uint64_t>(f.max_code()) + 1));
  for (auto& s : q.scales) {
    s = 0.01f * normal(random);
    s = rounded_scale(type == ScaleType::kByte ? std::fabs(s) : s, type, 0x1.0p-12f);
  }
  if (!symmetric)
    for (auto& z : q.zeros)
      z = static_cast<uint8_t>(random.below(static_cast<uint64_t>(f.max_code()) + (f.wide_zeros ? 2 : 1)));
  return q;
}

// Memory for int8 activations of m rows of k values.
struct Int8Rows {
  std::vector<int8_t> codes;
  std::vector<float> scales, units, sums;
  std::vector<int32_t> steps, counts;
  ActI8View view;

  Int8Rows(int64_t m, int64_t k, int64_t group) : codes(static_cast<size_t>(m * act_i8_stride(k)), 99) {
    const size_t segments = codes.size() / kActSegment;
    for (auto* floats : {&scales, &units, &sums}) floats->resize(segments);
    for (auto* integers : {&steps, &counts}) integers->resize(segments);
    view = {
        codes.data(),     scales.data(),         steps.data(), units.data(), sums.data(), counts.data(), m,
        act_i8_stride(k), act_i8_block(group, k)};
  }
};

}  // namespace nibble
