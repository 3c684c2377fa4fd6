// What the .cu files share: error checks and launches.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {

// Throws Error with `what` and CUDA's own words.
void check(cudaError_t error, const char* what);
// For bugs. The checks of base/error.h are not for nvcc: fmt's header does not pass through it.
void expect(bool condition);

// A kernel launched with `overlap` may start before the one in front of it has ended, and must call
// wait_for_previous() before it reads what that one wrote or writes anything (programmatic dependent launch).
// together: all blocks run at once, and may wait for each other.
template <typename... Parameters, typename... Arguments>
void launch_blocks(Queue& queue, bool overlap, bool together, dim3 grid, dim3 block, size_t shared,
                   void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(queue.stream());
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (overlap) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (together) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "a kernel's launch");
}
template <typename... Parameters, typename... Arguments>
void launch(Queue& queue, bool overlap, dim3 grid, dim3 block, size_t shared, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  launch_blocks(queue, overlap, false, grid, block, shared, kernel, std::forward<Arguments>(arguments)...);
}

#if defined(__CUDACC__)
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start once every block has come here.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// A thread of each block: its share of what is asked for ahead (ops.h).
__device__ __forceinline__ void fetch_ahead(const void* from, int64_t bytes, int block, int blocks) {
#if __CUDA_ARCH__ >= 900
  const int64_t share = (bytes / blocks + 255) / 256 * 256, first = block * share;
  if (first < bytes)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(static_cast<const char*>(from) + first),
                 "r"(static_cast<uint32_t>(min(share, bytes - first)))
                 : "memory");
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// to[part * stride]: value in `parts` numbers (ops.h), as nearly as they can.
__device__ __forceinline__ void store_parts(__half* to, int64_t stride, int parts, float value) {
  value *= 1 / kInputUnit;
#pragma unroll 1
  for (int part = 0; part < parts; ++part) {
    const __half rounded = __float2half_rn(value);
    to[part * stride] = rounded;
    value = (value - __half2float(rounded)) * kPartStep;
  }
}

// What store_parts() stored.
__device__ __forceinline__ float join_parts(const __half* from, int64_t stride, int parts) {
  float value = 0;
  for (int part = parts - 1; part >= 0; --part)
    value = value * (1 / kPartStep) + __half2float(from[part * stride]);
  return value * kInputUnit;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// 0.5·x·(1 + tanh y) of y = √(2/π)·(x + 0.044715·x³) (Hendrycks & Gimpel 2016), by the sigmoid of 2y.
__device__ __forceinline__ float gelu_new(float x) {
  return x / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}
#endif

}  // namespace nibble::cuda
