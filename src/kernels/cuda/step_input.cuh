// How a part's input comes into shared memory: as it is, or through a norm (step.cu).
//
// It lies so that a lane reads the operands of two products at once: quads of inputs [pair of steps][t][step
// of the pair]. Sums over the inputs that share a scale are found with it.
#pragma once

#include "kernels/cuda/step_message.cuh"
#include "kernels/cuda/step_ring.cuh"

namespace nibble::cuda {
namespace {

// This thread's number, as something that the compiler cannot know before: else what follows from it, of
// every form of the code, would be found at the kernel's start and held in registers.
__device__ __forceinline__ int fresh_thread() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

// The same of something in shared memory.
template <typename T>
__device__ __forceinline__ const T& fresh(const T& object) {
  uint32_t at = shared_address(&object);
  asm volatile("" : "+r"(at));
  return *static_cast<const T*>(__cvta_shared_to_generic(at));
}

// The threads that compute, as one.
__device__ __forceinline__ void sync_step() {
  asm volatile("bar.sync 1, %0;" ::"n"(kStepThreads) : "memory");
}

__device__ __forceinline__ int place_of_quad(int quad) {
  const int step = quad / 4, t = quad % 4;
  return (step / 2 * 8 + t * 2 + step % 2) * 4;
}

// Sum of `value` over the threads that have the inputs of a unit, `threads` of them side by side.
__device__ __forceinline__ float unit_sum(float value, int threads) {
#pragma unroll
  for (int step = threads / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Sums of two numbers over all of them; `room` of 2 · kStepWarps floats.
__device__ __forceinline__ float2 step_totals(float2 value, int thread, float2* room) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value.x += __shfl_xor_sync(0xffffffffu, value.x, step);
    value.y += __shfl_xor_sync(0xffffffffu, value.y, step);
  }
  if (thread % 32 == 0) room[thread / 32] = value;
  sync_step();
  value = room[thread % kStepWarps];
#pragma unroll
  for (int step = kStepWarps / 2; step > 0; step /= 2) {
    value.x += __shfl_xor_sync(0xffffffffu, value.x, step);
    value.y += __shfl_xor_sync(0xffffffffu, value.y, step);
  }
  return value;
}

struct StepInput {
  __half* x;
  float* sums;  // [inputs that share a scale wherever they lie][8 columns]
  int stride;   // of a column
};

// The first of the inputs that a lane brings, `each` in a row; the next ones lie each · kStepThreads further,
// and so on. Units of weights are those of the warp that brings their inputs.
template <Form F>
__device__ __forceinline__ int own_input(int each, int warp, int lane) {
  const int lanes = kUnitInputs<F> / each;
  return (warp + kStepWarps * (lane / lanes)) * kUnitInputs<F> + lane % lanes * each;
}

// The norm of h. scale, shift: the norm's weight and bias or null, in shared memory. Each warp brings the
// inputs of its units.
template <Form F, int kSteps>
__device__ __forceinline__ void stage_normed(const Gemv& call, const float* h, bool awaited, int k,
                                             const float* scale, const float* shift, const StepInput& to,
                                             int thread, float2* room) {
  constexpr int kEach = 4, kStride = kEach * kStepThreads, kRounds = kMaxNormed / kStride,
                kWidth = 16 * kSteps;
  const int padded = (k + 63) / 64 * 64, own = own_input<F>(kEach, thread / 32, thread % 32), left = k - own;
  const float *from = h + own, *own_scale = scale + own, *own_shift = shift + own;
  __half* x = to.x + place_of_quad(own / 4);
  float* sums = to.sums + own / kWidth * 8;
#pragma unroll 1
  for (int row = 0; row < call.rows; ++row, room += 2 * kStepWarps, from += k, x += to.stride, ++sums) {
    uint4 v[kRounds];
    read_messages(
        v, awaited, [&](int r) { return r * kStride < left; }, [&](int r) { return from + r * kStride; });
    float2 totals = make_float2(0, 0);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (r * kStride >= k) break;
      const float4 f = as_floats(v[r]);
      totals.x += (f.x + f.y) + (f.z + f.w);
      totals.y += (f.x * f.x + f.y * f.y) + (f.z * f.z + f.w * f.w);
    }
    totals = step_totals(totals, thread, room);
    const float share = __frcp_rn(static_cast<float>(k));
    float center = 0, variance = totals.y * share;
    if (shift) {
      center = totals.x * share;
      variance -= center * center;
      if (center * center > 64 * variance) {
        // The mean is large against the deviations: too few bits are left of them.
        totals.y = 0;
#pragma unroll
        for (int r = 0; r < kRounds; ++r) {
          const float4 f = as_floats(v[r]);
          if (r * kStride >= left) break;
          totals.y += ((f.x - center) * (f.x - center) + (f.y - center) * (f.y - center)) +
                      ((f.z - center) * (f.z - center) + (f.w - center) * (f.w - center));
        }
        variance = step_totals(totals, thread, room + kStepWarps).y * share;
      }
    }
    const float inverse = rsqrtf(variance + call.norm.eps) * (1 / kInputUnit);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (r * kStride >= padded) break;
      float4 f = as_floats(v[r]);
      if (r * kStride < left) {
        const float4 w = *reinterpret_cast<const float4*>(own_scale + r * kStride);
        f = make_float4((f.x - center) * inverse * w.x, (f.y - center) * inverse * w.y,
                        (f.z - center) * inverse * w.z, (f.w - center) * inverse * w.w);
        if (shift) {
          const float4 b = *reinterpret_cast<const float4*>(own_shift + r * kStride);
          constexpr float kShare = 1 / kInputUnit;
          f = make_float4(f.x + b.x * kShare, f.y + b.y * kShare, f.z + b.z * kShare, f.w + b.w * kShare);
        }
      }
      const __half2 first = __floats2half2_rn(f.x, f.y), second = __floats2half2_rn(f.z, f.w);
      const float2 low = __half22float2(first), high = __half22float2(second);
      const float total = unit_sum((low.x + low.y) + (high.x + high.y), kWidth / kEach);
      if (own + r * kStride < padded) {
        *reinterpret_cast<uint2*>(x + r * kStride) = make_uint2(*reinterpret_cast<const uint32_t*>(&first),
                                                                *reinterpret_cast<const uint32_t*>(&second));
        if (own % kWidth == 0) sums[r * kStride / kWidth * 8] = total;
      }
    }
  }
}

// x as it is; each warp brings the inputs of its units.
template <Form F, int kSteps>
__device__ __forceinline__ void stage_stored(const Gemv& call, const __half* stored, bool awaited, int k,
                                             const StepInput& to, int thread) {
  constexpr int kEach = 8, kStride = kEach * kStepThreads, kWidth = 16 * kSteps;
  constexpr int kRounds = 5;  // on their way at once
  const int padded = (k + 63) / 64 * 64, own = own_input<F>(kEach, thread / 32, thread % 32);
#pragma unroll 1
  for (int row = 0; row < call.rows; ++row) {
    const __half* from = stored + row * call.ldx + own;
    __half* x = to.x + row * to.stride + place_of_quad(own / 4);
    float* sums = to.sums + own / kWidth * 8 + row;
#pragma unroll 1
    for (int begin = 0; begin < padded; begin += kRounds * kStride, from += kRounds * kStride,
             x += kRounds * kStride, sums += kRounds * kStride / kWidth * 8) {
      const int left = k - begin - own, room = padded - begin - own;
      uint4 v[kRounds];
      read_messages(
          v, awaited, [&](int r) { return r * kStride < left; }, [&](int r) { return from + r * kStride; });
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        if (begin + r * kStride >= padded) break;
        float sum = 0;
#pragma unroll
        for (const uint32_t pair : {v[r].x, v[r].y, v[r].z, v[r].w}) {
          const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
          sum += both.x + both.y;
        }
        sum = unit_sum(sum, kWidth / kEach);
        if (r * kStride < room) {
          // Of a pair of quads the second lies behind the other steps' first one.
          *reinterpret_cast<uint2*>(x + r * kStride) = make_uint2(v[r].x, v[r].y);
          *reinterpret_cast<uint2*>(x + r * kStride + 8) = make_uint2(v[r].z, v[r].w);
          if (own % kWidth == 0) sums[r * kStride / kWidth * 8] = sum;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
