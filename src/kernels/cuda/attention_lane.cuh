// What a lane of attention.cu holds: rows of the cache, and the softmax of the keys that it has seen.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

// kDims consecutive values of a cached row as they lie in memory, asked for long before they are used.
template <CacheKind kKind, int kDims>
struct CachedRow {
  using Stored = std::conditional_t<kKind == CacheKind::kF16, __half,
                                    std::conditional_t<kKind == CacheKind::kF32, float, int8_t>>;
  alignas(16) Stored values[kDims];
  float scale;  // int8's

  // `count` values from `from` on, zeros behind them.
  __device__ __forceinline__ void load(const Stored* from, const float* scale_from, int count) {
    if constexpr (kKind == CacheKind::kI8) scale = count > 0 ? *scale_from : 0.0f;
    if constexpr (kDims == 8) {  // head dimensions are made of eights
      using Word = std::conditional_t<sizeof(values) % sizeof(uint4) == 0, uint4, uint2>;
#pragma unroll
      for (size_t i = 0; i < sizeof(values) / sizeof(Word); ++i)
        reinterpret_cast<Word*>(values)[i] = count > 0 ? reinterpret_cast<const Word*>(from)[i] : Word{};
    } else {
#pragma unroll
      for (int i = 0; i < kDims; ++i) values[i] = i < count ? from[i] : Stored(0);
    }
  }

  __device__ __forceinline__ void read(float (&to)[kDims]) const {
    if constexpr (kKind == CacheKind::kF16) {
#pragma unroll
      for (int i = 0; i < kDims; i += 2) {
        const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(values + i));
        to[i] = pair.x;
        to[i + 1] = pair.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kDims; ++i)
        to[i] =
            kKind == CacheKind::kI8 ? scale * static_cast<float>(values[i]) : static_cast<float>(values[i]);
    }
  }
};

// Softmax so far of one query head: `sum` of 2^(score − top)·value and `total` of 2^(score − top); scores
// have log₂ e in them.
template <int kDims>
struct Running {
  float top = -INFINITY, total = 0;
  float sum[kDims] = {};

  // Makes room for scores up to `largest`; weight() of a score after that. −∞ counts as nothing.
  __device__ __forceinline__ void raise(float largest) {
    largest = fmaxf(top, largest);
    const float shrink = top == -INFINITY ? 0.0f : exp2f(top - largest);
    top = largest;
    total *= shrink;
#pragma unroll
    for (int i = 0; i < kDims; ++i) sum[i] *= shrink;
  }
  __device__ __forceinline__ float weight(float score) const {
    return score == -INFINITY ? 0.0f : exp2f(score - top);
  }
};

// Takes the results of lanes `distance` apart together.
template <int kDims>
__device__ __forceinline__ void merge_lanes(Running<kDims>& own, int distance) {
  own.raise(__shfl_xor_sync(0xffffffffu, own.top, distance));
  own.total += __shfl_xor_sync(0xffffffffu, own.total, distance);
#pragma unroll
  for (int i = 0; i < kDims; ++i) own.sum[i] += __shfl_xor_sync(0xffffffffu, own.sum[i], distance);
}

// Of `n` records of top, total and sums: the weighted sum of dimension i; `total` of all, `top` the largest.
// Volatile: other blocks wrote some of them. Out of line, so that there is one of it to fetch.
__device__ __noinline__ float merge_records(const volatile float* from, int n, int stride, int i, float& top,
                                            float& total) {
  top = -INFINITY;
  total = 0;
  float sum = 0;
#pragma unroll 4
  for (int r = 0; r < n; ++r) top = fmaxf(top, from[r * stride]);
#pragma unroll 4
  for (int r = 0; r < n; ++r) {
    const float other = from[r * stride], weight = other == -INFINITY ? 0.0f : exp2f(other - top);
    total += weight * from[r * stride + 1];
    sum += weight * from[r * stride + 2 + i];
  }
  return sum;
}

}  // namespace
}  // namespace nibble::cuda
