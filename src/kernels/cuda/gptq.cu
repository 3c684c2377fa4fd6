// GPTQ's loop over the columns of a weight: a warp a row within a block of columns, cuBLASLt for what the
// block does to the rest. The grid of a group is found as quant/grid.h does, candidates by lanes.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_ops.h"

namespace nibble::cuda {
namespace {

constexpr int kBlockColumns = 128;
constexpr int kRatios = 17;
constexpr float kRatioStep = 0.025f;
constexpr float kSmallestNormal = 0x1.0p-14f;  // fp16
constexpr unsigned kAll = 0xffffffffu;

struct Format {
  int top, middle;  // the largest code, the zero point of symmetric codes
  bool symmetric;
};

struct Grid {
  float scale;
  int zero;
};

// unit: of the row, 0 for fp16.
__device__ float stored_scale(float scale, float unit) {
  if (scale == 0) return 0;
  if (unit > 0) return __fmul_rn(unit, fminf(fmaxf(rintf(scale / unit), 1.0f), 255.0f));
  const float magnitude = fminf(fmaxf(fabsf(scale), kSmallestNormal), 65504.0f);
  return __half2float(__float2half_rn(copysignf(magnitude, scale)));
}

__device__ Grid grid_of(float low, float high, float ratio, const Format& f, float unit) {
  Grid grid{0, 0};
  if (f.symmetric) {
    grid.zero = f.middle;
    const float extreme = -low > high ? low : high;
    grid.scale = stored_scale(__fmul_rn(-extreme, ratio) / static_cast<float>(f.middle), unit);
    return grid;
  }
  low = __fmul_rn(low, ratio);
  high = __fmul_rn(high, ratio);
  const float top = static_cast<float>(f.top);
  grid.scale = stored_scale(__fsub_rn(high, low) / top, unit);
  if (grid.scale != 0) grid.zero = static_cast<int>(fminf(fmaxf(rintf(-low / grid.scale), 0.0f), top));
  return grid;
}

__device__ float weighted_error(float value, float weight, const Grid& grid, float low, float high) {
  const float step = rintf(fminf(fmaxf(value / grid.scale, low), high));
  const float difference = __fsub_rn(value, __fmul_rn(grid.scale, step));
  return __fmul_rn(__fmul_rn(weight, difference), difference);
}

// The whole warp: lane i tries the ratio 1 − 0.025·i.
__device__ Grid fit(const float* values, const float* costs, int count, const Format& f, float unit) {
  const int lane = threadIdx.x % 32;
  float low = 0, high = 0;
  for (int i = lane; i < count; i += 32) {
    low = fminf(low, values[i]);
    high = fmaxf(high, values[i]);
  }
  low = -warp_max(-low);
  high = warp_max(high);
  const Grid grid =
      grid_of(low, high, __fsub_rn(1.0f, __fmul_rn(kRatioStep, static_cast<float>(lane))), f, unit);
  float error = INFINITY;
  if (lane < kRatios && grid.scale != 0) {
    const float first = static_cast<float>(-grid.zero), last = static_cast<float>(f.top - grid.zero);
    float sums[8] = {};
    for (int i = 0; i < count; i += 8) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (i + j < count)
          sums[j] = __fadd_rn(sums[j], weighted_error(values[i + j], costs[i + j], grid, first, last));
      }
    }
    error = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) error = __fadd_rn(error, sums[j]);
    if (!(error < INFINITY)) error = INFINITY;
  }
  float least = error;
  for (int step = 16; step > 0; step /= 2) least = fminf(least, __shfl_xor_sync(kAll, least, step));
  const bool none = __shfl_sync(kAll, static_cast<int>(grid.scale == 0), 0) != 0;  // all values are 0
  const unsigned best = __ballot_sync(kAll, error == least && error < INFINITY);
  const int winner = none || best == 0 ? 0 : __ffs(static_cast<int>(best)) - 1;
  Grid out{__shfl_sync(kAll, grid.scale, winner), __shfl_sync(kAll, grid.zero, winner)};
  if (!none && best == 0) out = {0, 0};
  return out;
}

__global__ void cost_kernel(const float* u, const int32_t* order, int k, float* cost) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= k) return;
  const float d = u[int64_t{i} * k + i];
  cost[order[i]] = 1.0f / __fmul_rn(d, d);
}

// The grids of all groups from the weights as they are.
__global__ void fit_all_kernel(GptqCall c, Format f, int groups) {
  const int warp = blockIdx.x * 8 + threadIdx.x / 32, row = warp / groups, g = warp % groups;
  if (row >= c.n) return;
  const int first = g * c.group;
  const Grid grid = fit(c.weight + int64_t{row} * c.k + first, c.cost + first, min(c.group, c.k - first), f,
                        c.units ? c.units[row] : 0);
  if (threadIdx.x % 32 > 0) return;
  c.scales[warp] = grid.scale;
  c.zeros[warp] = static_cast<uint8_t>(grid.zero);
}

__global__ void sort_kernel(GptqCall c) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < c.k) c.sorted[int64_t{blockIdx.y} * c.k + i] = c.weight[int64_t{blockIdx.y} * c.k + c.order[i]];
}

// Columns [begin, end) of w: codes, and errors[n, end − begin].
__global__ void block_kernel(GptqCall c, Format f, int groups, float* w, int begin, int end) {
  extern __shared__ float room[];
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32, width = end - begin;
  const int row = blockIdx.x * warps + threadIdx.x / 32;
  if (row >= c.n) return;
  float* mine = room + threadIdx.x / 32 * width;
  const float* from = w + int64_t{row} * c.k;
  for (int i = lane; i < width; i += 32) mine[i] = from[begin + i];
  __syncwarp();
  const float unit = c.units ? c.units[row] : 0;
  Grid grid{0, 0};
  for (int i = begin; i < end; ++i) {
    const int column = c.natural ? i : c.order[i], g = column / c.group;
    const int64_t at = int64_t{row} * groups + g;
    if (!c.natural) {
      grid = {c.scales[at], c.zeros[at]};
    } else if (column % c.group == 0) {
      // A group longer than the block begins with it: nothing has changed yet.
      const int count = min(c.group, c.k - column);
      grid = fit(i + count <= end ? mine + i - begin : from + i, c.cost + column, count, f, unit);
      if (lane == 0) {
        c.scales[at] = grid.scale;
        c.zeros[at] = static_cast<uint8_t>(grid.zero);
      }
    } else if (i == begin) {
      grid = {c.scales[at], c.zeros[at]};
    }
    const float value = mine[i - begin];
    int code = grid.zero;
    if (grid.scale != 0) {
      const float low = static_cast<float>(-grid.zero), high = static_cast<float>(f.top - grid.zero);
      code += static_cast<int>(rintf(fminf(fmaxf(value / grid.scale, low), high)));
    }
    const float* next = c.factor + int64_t{i} * c.k;
    const float error =
        __fsub_rn(value, __fmul_rn(grid.scale, static_cast<float>(code - grid.zero))) / next[i];
    if (lane == 0) {
      c.codes[int64_t{row} * c.k + column] = static_cast<uint8_t>(code);
      c.errors[int64_t{row} * width + i - begin] = error;
    }
    __syncwarp();
    for (int j = i + 1 + lane; j < end; j += 32) mine[j - begin] = fmaf(-error, next[j], mine[j - begin]);
    __syncwarp();
  }
}

}  // namespace

int64_t gptq_block_columns(int64_t k, int64_t group) {
  if (group >= k) return std::min<int64_t>(k, kBlockColumns);
  return std::min(k, group >= kBlockColumns ? group : kBlockColumns / group * group);
}

void gptq(Queue& queue, MatrixProducts& products, const GptqCall& c) {
  const Format f{(1 << c.bits) - 1, 1 << (c.bits - 1), c.symmetric};
  const int groups = (c.k + c.group - 1) / c.group,
            block = static_cast<int>(gptq_block_columns(c.k, c.group));
  const dim3 columns(static_cast<unsigned>((c.k + 255) / 256));
  launch(queue, false, columns, 256, 0, cost_kernel, c.factor, c.order, c.k, c.cost);
  float* w = c.weight;
  if (!c.natural) {
    launch(queue, false, static_cast<unsigned>((int64_t{c.n} * groups + 7) / 8), 256, 0, fit_all_kernel, c, f,
           groups);
    launch(queue, false, dim3(columns.x, static_cast<unsigned>(c.n)), 256, 0, sort_kernel, c);
    w = c.sorted;
  }
  int warps = 8;
  while (warps > 1 && warps * block * sizeof(float) > 48 * 1024) warps /= 2;
  const size_t shared = warps * block * sizeof(float);
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(block_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          "shared memory of gptq");
  for (int begin = 0; begin < c.k; begin += block) {
    const int end = std::min(c.k, begin + block), width = end - begin;
    launch(queue, false, static_cast<unsigned>((c.n + warps - 1) / warps), static_cast<unsigned>(warps * 32),
           shared, block_kernel, c, f, groups, w, begin, end);
    if (end < c.k)
      products.run(queue, Number::kF32, {c.errors, width}, {c.factor + int64_t{begin} * c.k + end, c.k}, c.n,
                   c.k - end, width, -1, 1, w + end, c.k);
  }
}

}  // namespace nibble::cuda
