// How the input of the kernel for few rows (gemv_kernel.cuh) comes into shared memory: as it is, or through a
// norm.
#pragma once

#include "kernels/cuda/gemv_fragment.cuh"

namespace nibble::cuda {
namespace {

// The kernel is started over and over with little to do: what follows is written for few instructions, since
// those that no earlier kernel has left in the instruction cache cost more than they do.

// Columns of the input into shared memory as they are.
__device__ __forceinline__ void stage_copy(const Gemv& call, int k, __half* x, int stride) {
  const int padded = (k + 63) / 64 * 64, columns = call.rows * call.parts;
  const __half* from = static_cast<const __half*>(call.x);
#pragma unroll 1
  for (int column = 0; column < columns; ++column, from += call.ldx, x += stride) {
#pragma unroll 2
    for (int i = threadIdx.x * 8; i < padded; i += blockDim.x * 8)
      *reinterpret_cast<uint4*>(x + i) = *reinterpret_cast<const uint4*>(from + i);
  }
}

// The norm's weights for the first inputs of a thread, asked for before the kernel in front has ended.
constexpr int kEarly = 2;

// Σ term(v) over k numbers from h on, divided by k, by the block for `rows` rows: in means[row].
template <bool kSquares>
__device__ __forceinline__ void row_means(const float* h, int k, int rows, const float* centers, float* room,
                                          float* means) {
  const int threads = blockDim.x, thread = threadIdx.x, warps = threads / 32;
#pragma unroll 1
  for (int row = 0; row < rows; ++row, h += k) {
    const float center = centers ? centers[row] : 0.0f;
    float sum = 0;
#pragma unroll 2
    for (int i = thread * 4; i < k; i += threads * 4) {
      const float4 v = *reinterpret_cast<const float4*>(h + i);
      const float a = v.x - center, b = v.y - center, c = v.z - center, d = v.w - center;
      sum += kSquares ? (a * a + b * b) + (c * c + d * d) : (a + b) + (c + d);
    }
    sum = warp_sum(sum);
    if (thread % 32 == 0) room[row * 16 + thread / 32] = sum;
  }
  __syncthreads();
#pragma unroll 1
  for (int row = thread / 32; row < rows; row += warps) {
    float sum = thread % 32 < warps ? room[row * 16 + thread % 32] : 0.0f;
    sum = warp_sum(sum);
    if (thread % 32 == 0) means[row] = sum / static_cast<float>(k);
  }
  __syncthreads();
}

// The norm of the rows of h into shared memory; `room` of kMaxColumns · 18 floats.
__device__ __forceinline__ void stage_norm(const Gemv& call, int k, const float4 (&early)[kEarly], __half* x,
                                           int stride, float* room) {
  const int padded = (k + 63) / 64 * 64, threads = blockDim.x, thread = threadIdx.x;
  float *variances = room + kMaxColumns * 16, *centers = nullptr;
  if (call.norm.bias) {
    centers = variances + kMaxColumns;
    row_means<false>(call.h, k, call.rows, nullptr, room, centers);
  }
  row_means<true>(call.h, k, call.rows, centers, room, variances);
  const float* h = call.h;
#pragma unroll 1
  for (int row = 0; row < call.rows; ++row, h += k, x += call.parts * stride) {
    const float inverse = 1.0f / sqrtf(variances[row] + call.norm.eps),
                center = centers ? centers[row] : 0.0f;
    int chunk = 0;
#pragma unroll 1
    for (int i = thread * 4; i < padded; i += threads * 4, ++chunk) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i < k) {
        v = *reinterpret_cast<const float4*>(h + i);
        const float4 w = chunk == 0   ? early[0]
                         : chunk == 1 ? early[1]
                                      : *reinterpret_cast<const float4*>(call.norm.weight + i);
        v = make_float4((v.x - center) * inverse * w.x, (v.y - center) * inverse * w.y,
                        (v.z - center) * inverse * w.z, (v.w - center) * inverse * w.w);
        if (centers) {
          const float4 shift = *reinterpret_cast<const float4*>(call.norm.bias + i);
          v = make_float4(v.x + shift.x, v.y + shift.y, v.z + shift.z, v.w + shift.w);
        }
      }
      constexpr float kShare = 1 / kInputUnit;
      v = make_float4(v.x * kShare, v.y * kShare, v.z * kShare, v.w * kShare);
#pragma unroll 1
      for (int part = 0; part < call.parts; ++part) {
        const __half2 first = __floats2half2_rn(v.x, v.y), second = __floats2half2_rn(v.z, v.w);
        *reinterpret_cast<uint2*>(x + part * stride + i) = make_uint2(
            *reinterpret_cast<const uint32_t*>(&first), *reinterpret_cast<const uint32_t*>(&second));
        const float2 low = __half22float2(first), high = __half22float2(second);
        v = make_float4((v.x - low.x) * kPartStep, (v.y - low.y) * kPartStep, (v.z - high.x) * kPartStep,
                        (v.w - high.y) * kPartStep);
      }
    }
  }
}

// Columns in the weight's order, or a norm whose rows are not made of fours: seldom, so kept out of the way.
__device__ __noinline__ void stage_slowly(const Gemv& call, int k, const int32_t* order, __half* x,
                                          int stride) {
  const int padded = (k + 63) / 64 * 64, threads = blockDim.x, thread = threadIdx.x;
  if (call.x) {
    const __half* from = static_cast<const __half*>(call.x);
#pragma unroll 1
    for (int column = 0; column < call.rows * call.parts; ++column) {
      for (int i = thread; i < padded; i += threads)
        x[column * stride + i] =
            i < k ? from[column * call.ldx + (order ? order[i] : i)] : __float2half_rn(0.0f);
    }
    return;
  }
#pragma unroll 1
  for (int row = thread / 32; row < call.rows; row += threads / 32) {
    const float* h = call.h + int64_t{row} * k;
    float center = 0, sum = 0;
    if (call.norm.bias) {
      for (int i = thread % 32; i < k; i += 32) sum += h[i];
      center = warp_sum(sum) / static_cast<float>(k);
      sum = 0;
    }
    for (int i = thread % 32; i < k; i += 32) sum += (h[i] - center) * (h[i] - center);
    const float inverse = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(k) + call.norm.eps);
    for (int i = thread % 32; i < padded; i += 32) {
      float value = 0;
      if (i < k) {
        const int from = order ? order[i] : i;
        value = (h[from] - center) * inverse * call.norm.weight[from];
        if (call.norm.bias) value += call.norm.bias[from];
      }
      store_parts(x + row * call.parts * stride + i, stride, call.parts, value);
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
