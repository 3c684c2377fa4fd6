// Norms, activations, softmax pieces and conversions, vectors along the row.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

// body(offset, count): whole vectors with count = kLanes, then what is left.
template <class V, class Body>
inline void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) body(i, int64_t{V::kLanes});
  if (i < n) body(i, n - i);
}

template <class V>
inline float lane_sum(typename V::F v) {
  return _mm_cvtss_f32(V::reduce(v, v, v, v));
}

// exp(x), relative error below 2e-7 (Cephes' expf); 0 below −87.3, the value at 88 above.
template <class V>
inline typename V::F exp_of(typename V::F x) {
  using F = typename V::F;
  const F lowest = V::set(-87.33654f);
  const F clamped = V::min(V::max(x, lowest), V::set(88.0f));
  const F n = V::round(V::mul(clamped, V::set(1.44269504f)));
  F r = V::fma(n, V::set(-0.693359375f), clamped);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  F p = V::set(1.9875691500e-4f);
  p = V::fma(p, r, V::set(1.3981999507e-3f));
  p = V::fma(p, r, V::set(8.3334519073e-3f));
  p = V::fma(p, r, V::set(4.1665795894e-2f));
  p = V::fma(p, r, V::set(1.6666665459e-1f));
  p = V::fma(p, r, V::set(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0f));
  return V::keep_if_at_least(V::mul(p, V::pow2(n)), x, lowest);
}

template <class V>
void rms_norm(const float* x, const float* weight, float* y, int64_t n, float eps) {
  typename V::F squares = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    const typename V::F v = V::load(x + i, count);
    squares = V::fma(v, v, squares);
  });
  const float mean = lane_sum<V>(squares) / static_cast<float>(n);
  const typename V::F inverse = V::set(1.0f / __builtin_sqrtf(mean + eps));
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    V::store(y + i, V::mul(V::mul(V::load(x + i, count), inverse), V::load(weight + i, count)), count);
  });
}

template <class V>
void layer_norm(const float* x, const float* weight, const float* bias, float* y, int64_t n, float eps) {
  typename V::F sum = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t count) { sum = V::add(sum, V::load(x + i, count)); });
  const float mean = lane_sum<V>(sum) / static_cast<float>(n);
  float squares = 0;
  typename V::F square_lanes = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    if (count == V::kLanes) {
      const typename V::F v = V::sub(V::load(x + i), V::set(mean));
      square_lanes = V::fma(v, v, square_lanes);
    } else {
      for (int64_t j = i; j < i + count; ++j) squares += (x[j] - mean) * (x[j] - mean);
    }
  });
  squares += lane_sum<V>(square_lanes);
  const typename V::F inverse = V::set(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    const typename V::F v = V::mul(V::sub(V::load(x + i, count), V::set(mean)), inverse);
    V::store(y + i, V::fma(v, V::load(weight + i, count), V::load(bias + i, count)), count);
  });
}

template <class V>
void add(float* y, const float* x, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    V::store(y + i, V::add(V::load(y + i, count), V::load(x + i, count)), count);
  });
}

// x · sigmoid(steepness(x))
template <class V>
inline typename V::F gated(typename V::F x, typename V::F steepness) {
  const typename V::F one = V::set(1.0f);
  return V::div(x, V::add(one, exp_of<V>(V::sub(V::zero(), steepness))));
}

template <class V>
void silu_mul(const float* gate, const float* up, float* y, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    const typename V::F g = V::load(gate + i, count);
    V::store(y + i, V::mul(gated<V>(g, g), V::load(up + i, count)), count);
  });
}

// 0.5·x·(1 + tanh(u)) = x · sigmoid(2u), u = √(2/π)·(x + 0.044715·x³)
template <class V>
void gelu_new(const float* x, float* y, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    const typename V::F v = V::load(x + i, count);
    const typename V::F cubic = V::fma(V::mul(V::mul(v, v), v), V::set(0.044715f), v);
    V::store(y + i, gated<V>(v, V::mul(cubic, V::set(1.5957691216057308f))), count);
  });
}

template <class V>
float exp_sum(float* x, int64_t n, float max) {
  typename V::F sum = V::zero();
  float rest = 0;
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    const typename V::F e = exp_of<V>(V::sub(V::load(x + i, count), V::set(max)));
    V::store(x + i, e, count);
    if (count == V::kLanes) {
      sum = V::add(sum, e);
    } else {
      for (int64_t j = i; j < i + count; ++j) rest += x[j];
    }
  });
  return lane_sum<V>(sum) + rest;
}

template <class V>
float max_of(const float* x, int64_t n) {
  if (n < V::kLanes) {
    float best = x[0];
    for (int64_t i = 1; i < n; ++i) best = x[i] > best ? x[i] : best;
    return best;
  }
  typename V::F best = V::load(x + n - V::kLanes);  // overlaps the last whole vector
  for (int64_t i = 0; i + V::kLanes <= n; i += V::kLanes) best = V::max(best, V::load(x + i));
  return V::largest(best);
}

template <class V>
void scale_add(float* y, float scale, const float* x, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    V::store(y + i, V::fma(V::load(y + i, count), V::set(scale), V::load(x + i, count)), count);
  });
}

template <class V>
void axpy(float* y, float a, const float* x, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    V::store(y + i, V::fma(V::load(x + i, count), V::set(a), V::load(y + i, count)), count);
  });
}

// kSums sums of kVectors·lanes columns stay in registers over all rows.
template <class V, int kSums, int kVectors>
inline void weighted_columns(const float* weights, int64_t ldw, const float* rows, int64_t count, float* y,
                             int64_t n) {
  typename V::F sum[kSums][kVectors];
  NIBBLE_UNROLL for (int s = 0; s < kSums; ++s) NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v) sum[s][v] =
      V::zero();
  for (int64_t i = 0; i < count; ++i) {
    typename V::F row[kVectors];
    NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v) row[v] = V::load(rows + i * n + v * V::kLanes);
    NIBBLE_UNROLL for (int s = 0; s < kSums; ++s) {
      const typename V::F weight = V::set(weights[s * ldw + i]);
      NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v) sum[s][v] = V::fma(weight, row[v], sum[s][v]);
    }
  }
  NIBBLE_UNROLL for (int s = 0; s < kSums; ++s) NIBBLE_UNROLL for (int v = 0; v < kVectors; ++v)
      V::store(y + s * n + v * V::kLanes, sum[s][v]);
}

template <class V, int kSums>
void weighted_sums_of(const float* weights, int64_t ldw, const float* rows, int64_t count, float* y,
                      int64_t n) {
  constexpr int kVectors = V::kLanes == 16 ? 4 : kSums == 1 ? 4 : 2;
  int64_t c = 0;
  for (; c + kVectors * V::kLanes <= n; c += kVectors * V::kLanes)
    weighted_columns<V, kSums, kVectors>(weights, ldw, rows + c, count, y + c, n);
  for (; c + V::kLanes <= n; c += V::kLanes)
    weighted_columns<V, kSums, 1>(weights, ldw, rows + c, count, y + c, n);
  if (c == n) return;
  for (int s = 0; s < kSums; ++s) {
    typename V::F sum = V::zero();
    for (int64_t i = 0; i < count; ++i)
      sum = V::fma(V::set(weights[s * ldw + i]), V::load(rows + i * n + c, n - c), sum);
    V::store(y + s * n + c, sum, n - c);
  }
}

template <class V>
void weighted_sums(const float* weights, int64_t ldw, int64_t m, const float* rows, int64_t count, float* y,
                   int64_t n) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) weighted_sums_of<V, 4>(weights + i * ldw, ldw, rows, count, y + i * n, n);
  for (; i < m; ++i) weighted_sums_of<V, 1>(weights + i * ldw, ldw, rows, count, y + i * n, n);
}

template <class V>
void to_f16(const float* x, uint16_t* y, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) { V::store_f16(y + i, V::load(x + i, count), count); });
}

template <class V>
void from_f16(const uint16_t* x, float* y, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) { V::store(y + i, V::load_f16(x + i, count), count); });
}

template <class V>
void from_i8(const int8_t* x, float scale, float* y, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int64_t count) {
    V::store(y + i, V::mul(V::set(scale), V::to_float(V::load_i8(x + i, count))), count);
  });
}

template <class V>
float largest_of(const float* x, int64_t n) {
  typename V::F top = V::zero();
  for_vectors<V>(n, [&](int64_t c, int64_t count) { top = V::max(top, V::abs(V::load(x + c, count))); });
  return V::largest(top);
}

template <class V>
void quantize_i8(const float* x, int64_t k, const ActI8Row& row) {
  int64_t segment = 0;
  for (int64_t begin = 0, b = 0; begin < k; begin += row.block, ++b) {
    const int64_t end = k - begin < row.block ? k : begin + row.block;
    float tops[kActBlock / kActSegment], top = 0;
    int count = 0;
    for (int64_t c = begin; c < end; c += kActSegment, ++count) {
      tops[count] = largest_of<V>(x + c, end - c < kActSegment ? end - c : kActSegment);
      top = top < tops[count] ? tops[count] : top;
    }
    const float unit = top / (127.0f * kActSteps), steps_per_value = top > 0 ? kActSteps / top : 0.0f;
    typename V::F sum = V::zero(), steps = V::zero();  // Σ step · code < 2^24: exact in float32
    for (int i = 0; i < count; ++i, ++segment) {
      const int64_t from = begin + i * kActSegment,
                    size = end - from < kActSegment ? end - from : kActSegment;
      const float steps_wanted = __builtin_ceilf(tops[i] * steps_per_value);
      const int32_t step = !(steps_wanted > 1)        ? 1
                           : steps_wanted < kActSteps ? static_cast<int32_t>(steps_wanted)
                                                      : kActSteps;
      const float scale = unit * static_cast<float>(step);
      const typename V::F inverse = V::set(scale > 0 ? 1.0f / scale : 0.0f);
      int8_t* to = row.codes + segment * row.tile * kActSegment;
      for_vectors<V>(size, [&](int64_t c, int64_t lanes) {
        const typename V::I q = V::to_int(V::mul(V::load(x + from + c, lanes), inverse));
        V::store_i8(to + c, q, lanes);
        sum = V::fma(V::to_float(q), V::set(scale), sum);
        steps = V::fma(V::to_float(q), V::set(static_cast<float>(step)), steps);
      });
      for (int64_t c = size; c < kActSegment; ++c) to[c] = 0;
      if (row.scales) row.scales[segment * row.tile] = scale;
      if (row.steps) row.steps[segment * row.tile] = step * 0x10001;
    }
    if (row.units) row.units[b * row.tile] = unit;
    if (row.sums) row.sums[b * row.tile] = lane_sum<V>(sum);
    if (row.counts) row.counts[b * row.tile] = static_cast<int32_t>(lane_sum<V>(steps));
  }
}

template <class V>
float to_i8(const float* x, int8_t* y, int64_t n) {
  const float top = largest_of<V>(x, n);
  const typename V::F inverse = V::set(top > 0 ? 127.0f / top : 0.0f);
  for_vectors<V>(n, [&](int64_t c, int64_t count) {
    V::store_i8(y + c, V::to_int(V::mul(V::load(x + c, count), inverse)), count);
  });
  return top / 127.0f;
}

}  // namespace
}  // namespace nibble
