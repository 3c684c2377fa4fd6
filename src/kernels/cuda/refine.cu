// Coordinate descent on codes (quant/refine.h): a warp a row, whose gradient lies in shared memory. The next
// 32 inputs are looked at together; the first that moves does so before those behind it are looked at again.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_ops.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__device__ int groups_of(const RefineCall& c) { return (c.k + c.group - 1) / c.group; }

// difference = weight − what the codes say, in place; a diagonal for all rows.
__global__ void difference_kernel(RefineCall c) {
  const int i = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
  if (i >= c.k) return;
  if (row == 0) c.diagonal[i] = c.gram[int64_t{i} * c.k + i] + c.added;
  const int64_t at = int64_t{row} * c.k + i, g = int64_t{row} * groups_of(c) + i / c.group;
  c.weight[at] =
      __fsub_rn(c.weight[at], __fmul_rn(c.scales[g], static_cast<float>(c.codes[at] - c.zeros[g])));
}

__global__ void refine_kernel(RefineCall c) {
  extern __shared__ __align__(16) float slope[];
  const int lane = threadIdx.x, groups = groups_of(c), k = c.k;
  const int64_t row = blockIdx.x;
  uint8_t* codes = c.codes + row * k;
  for (int i = lane; i < k; i += 32) slope[i] = c.gradient[row * k + i] + c.added * c.weight[row * k + i];
  __syncwarp();
  for (int sweep = 0; sweep < c.sweeps; ++sweep) {
    bool moved = false;
    for (int base = 0; base < k; base += 32) {
      const int i = base + lane;
      const float scale = i < k ? c.scales[row * groups + i / c.group] : 0.0f;
      const float curvature = i < k ? c.diagonal[i] * scale : 0.0f;
      for (int last = -1;;) {
        int step = 0;
        const float wanted = curvature != 0 ? rintf(slope[i] / curvature) : 0.0f;
        if (lane > last && fabsf(wanted) >= 1) {
          const int code = codes[i];
          step = static_cast<int>(
                     fminf(fmaxf(static_cast<float>(code) + wanted, 0.0f), static_cast<float>(c.top))) -
                 code;
        }
        const unsigned movers = __ballot_sync(kAll, step != 0);
        if (movers == 0) break;
        last = __ffs(static_cast<int>(movers)) - 1;
        if (lane == last) codes[i] = static_cast<uint8_t>(codes[i] + step);
        const float change =
            -__shfl_sync(kAll, scale, last) * static_cast<float>(__shfl_sync(kAll, step, last));
        const float* line = c.gram + int64_t{base + last} * k;
#pragma unroll 8
        for (int j = lane; j < k; j += 32) slope[j] = fmaf(change, __ldg(line + j), slope[j]);
        __syncwarp();
        if (lane == last) slope[i] = fmaf(change, c.added, slope[i]);
        __syncwarp();
        moved = true;
      }
    }
    if (!moved) return;
  }
}

}  // namespace

void refine(Queue& queue, MatrixProducts& products, const RefineCall& c) {
  const size_t shared = static_cast<size_t>(c.k) * sizeof(float);
  expect(shared <= static_cast<size_t>(device().shared_bytes_per_block));
  check(cudaFuncSetAttribute(refine_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device().shared_bytes_per_block),
        "shared memory of coordinate descent");
  launch(queue, false, dim3(static_cast<unsigned>((c.k + 255) / 256), static_cast<unsigned>(c.n)), 256, 0,
         difference_kernel, c);
  products.run(queue, Number::kF32, {c.weight, c.k}, {c.gram, c.k}, c.n, c.k, c.k, 1, 0, c.gradient, c.k);
  launch(queue, false, static_cast<unsigned>(c.n), 32, shared, refine_kernel, c);
}

}  // namespace nibble::cuda
