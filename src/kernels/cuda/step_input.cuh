// How a part's input comes into shared memory: as it is, or through a norm (step.cu).
//
// It lies so that a lane reads the operands of two products at once: quads of inputs [pair of steps][t][step
// of the pair]. Zero points leave products by Σ (c − z)·x = Σ c·x − z·Σ x: the sums of x are found here.
#pragma once

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

// Until the blocks of the parts before have arrived.
__device__ __forceinline__ void await_parts(const StepPart& part, const int* arrivals, int thread) {
  for (int i = 0; i < 2 && thread == 0; ++i) {
    if (part.after[i] < 0) continue;
    int seen = 0;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
                   : "=r"(seen)
                   : "l"(arrivals + part.after[i])
                   : "memory");
    } while (seen < part.arrivals[i]);
  }
  sync_step();
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

// The norm of h. scale, shift: the norm's weight and bias or null, in shared memory; `stash` of kMaxNormed
// floats; width: inputs that share a scale wherever they lie.
__device__ __forceinline__ void stage_normed(const Gemv& call, int k, int width, const float* scale,
                                             const float* shift, const StepInput& to, int thread,
                                             float* stash, float2* room) {
  const int padded = (k + 63) / 64 * 64;
#pragma unroll 1
  for (int row = 0; row < call.rows; ++row, room += 2 * kStepWarps) {
    const float* h = call.h + int64_t{row} * k;
    float2 totals = make_float2(0, 0);
#pragma unroll 2
    for (int i = thread * 4; i < k; i += kStepThreads * 4) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(h + i));
      *reinterpret_cast<float4*>(stash + i) = v;
      totals.x += (v.x + v.y) + (v.z + v.w);
      totals.y += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
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
#pragma unroll 1
        for (int i = thread * 4; i < k; i += kStepThreads * 4) {
#pragma unroll 1
          for (int j = 0; j < 4; ++j) totals.y += (stash[i + j] - center) * (stash[i + j] - center);
        }
        variance = step_totals(totals, thread, room + kStepWarps).y * share;
      }
    }
    const float inverse = rsqrtf(variance + call.norm.eps) * (1 / kInputUnit);
#pragma unroll 2
    for (int i = thread * 4; i - thread % 32 * 4 < padded; i += kStepThreads * 4) {  // whole warps
      float4 v = make_float4(0, 0, 0, 0);
      if (i < k) {
        v = *reinterpret_cast<const float4*>(stash + i);
        const float4 w = *reinterpret_cast<const float4*>(scale + i);
        v = make_float4((v.x - center) * inverse * w.x, (v.y - center) * inverse * w.y,
                        (v.z - center) * inverse * w.z, (v.w - center) * inverse * w.w);
        if (shift) {
          const float4 b = *reinterpret_cast<const float4*>(shift + i);
          constexpr float kShare = 1 / kInputUnit;
          v = make_float4(v.x + b.x * kShare, v.y + b.y * kShare, v.z + b.z * kShare, v.w + b.w * kShare);
        }
      }
      const __half2 first = __floats2half2_rn(v.x, v.y), second = __floats2half2_rn(v.z, v.w);
      const float2 low = __half22float2(first), high = __half22float2(second);
      const float total = unit_sum((low.x + low.y) + (high.x + high.y), width / 4);
      if (i < padded) {
        *reinterpret_cast<uint2*>(to.x + row * to.stride + place_of_quad(i / 4)) = make_uint2(
            *reinterpret_cast<const uint32_t*>(&first), *reinterpret_cast<const uint32_t*>(&second));
        if (i % width == 0) to.sums[i / width * 8 + row] = total * kLowUnit<Form::kQ4>;
      }
    }
  }
}

__device__ __forceinline__ void stage_stored(const Gemv& call, int k, int width, const StepInput& to,
                                             int thread) {
  const int padded = (k + 63) / 64 * 64;
#pragma unroll 1
  for (int row = 0; row < call.rows; ++row) {
    const __half* from = static_cast<const __half*>(call.x) + row * call.ldx;
    constexpr int kAtOnce = 5;  // on their way
#pragma unroll 1
    for (int begin = 0; begin < padded; begin += kAtOnce * kStepThreads * 8) {
      uint4 v[kAtOnce];
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        const int i = begin + (c * kStepThreads + thread) * 8;
        v[c] = i < padded ? __ldcg(reinterpret_cast<const uint4*>(from + i)) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        const int i = begin + (c * kStepThreads + thread) * 8;
        if (i - thread % 32 * 8 >= padded) break;  // the whole warp
        float sum = 0;
#pragma unroll
        for (const uint32_t pair : {v[c].x, v[c].y, v[c].z, v[c].w}) {
          const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
          sum += both.x + both.y;
        }
        sum = unit_sum(sum, width / 8);
        if (i < padded) {
          __half* x = to.x + row * to.stride;
          *reinterpret_cast<uint2*>(x + place_of_quad(i / 4)) = make_uint2(v[c].x, v[c].y);
          *reinterpret_cast<uint2*>(x + place_of_quad(i / 4 + 1)) = make_uint2(v[c].z, v[c].w);
          if (i % width == 0) to.sums[i / width * 8 + row] = sum * kLowUnit<Form::kQ4>;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
