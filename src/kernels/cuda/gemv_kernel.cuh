// Products of few rows with weights that are read once, at the speed of the card's memory.
//
// A block takes panels of 16 weight rows, its warps share a panel's inputs, and the matrix units multiply:
// weights are the left operand (m16n8k16), columns of the right one are rows · parts of the input. Codes are
// fp16 numbers as they lie and less their zero points exact (gemv_fragment.cuh); a group's sum is multiplied
// by its scale in float32. Weights come straight into registers, several units of a warp on their way at a
// time; the first are asked for before the kernel in front has ended (launch.cuh), inputs after. Through
// shared memory (cp.async, eight units on their way) it was slower: more instructions a unit.
#pragma once

#include <algorithm>

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/gemv_jobs.cuh"
#include "kernels/cuda/gemv_stage.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

__device__ __forceinline__ void load_before(Addends& a, const GemvJob& job, int row, int n) {
  if (job.finish == Finish::kAdd) a.before = job.y[row * job.ldy + n];
}

// Sums of the warps, turned into what the job asks for; sums[warp][column][16 rows].
template <Form F>
__device__ __forceinline__ void finish(const GemvJob& job, int row, int n, int parts, const float* sums,
                                       int warps, int columns, const Addends& addends) {
  const auto total = [&](int first_warp) {
    float sum = 0;
#pragma unroll 1
    for (int part = parts - 1; part >= 0; --part) {
      sum *= 1 / kPartStep;
      const float* from = sums + (first_warp * columns + row * parts + part) * 16 + n % 16;
#pragma unroll 4
      for (int w = 0; w < warps; ++w) sum += from[w * columns * 16];
    }
    return sum;
  };
  const float value =
      finished<F>(job, job.finish, addends, [&](bool partner) { return total(partner ? warps : 0); });
  if (job.finish == Finish::kStore || job.finish == Finish::kAdd) {
    job.y[row * job.ldy + n] = value;
  } else {
    store_parts(static_cast<__half*>(job.out) + row * parts * job.ld_out + n, job.ld_out, parts, value);
  }
}

struct Plan {
  int items;       // panels of all jobs
  int warps;       // of a block that share a panel; with a partner as many again take the partner's
  int together;    // panels whose sums are put together at once
  int x_bytes;     // of shared memory, for the input
  uint32_t magic;  // of the group
};

template <Form F, int kSteps, bool kWide, int kTiles>
__global__ void __maxnreg__(kGemvRegisters)
    gemv_kernel(const __grid_constant__ Gemv call, const __grid_constant__ Plan plan) {
  constexpr int kDepth = F == Form::kQ4 && kSteps == 1 ? 2 : 4;  // units on their way a warp
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float room[kMaxColumns * 18];
  __half* x = reinterpret_cast<__half*>(shared);
  float* sums = reinterpret_cast<float*>(shared + plan.x_bytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, block_warps = blockDim.x / 32;
  const bool partner = warp >= plan.warps;
  const int part = partner ? warp - plan.warps : warp;
  const Weight& like = call.jobs[0].weight;
  const int k = like.k, columns = call.rows * call.parts;
  const int units = (k + kUnitInputs<F> - 1) / kUnitInputs<F>;
  const int groups = F == Form::kF16 ? 0 : (k + like.group - 1) / like.group;
  const int stride = (k + 63) / 64 * 64 + kColumnPad<F>;
  const bool float_scales = like.float_scales, wide_zeros = like.wide_zeros;
  const int step = static_cast<int>(gridDim.x);

  let_next_start();
  // Rounds of kDepth units; what a round computes was asked for in the round before.
  Fragment<F, kSteps, kWide> ring[kDepth];
  const auto open = [&](int item) {
    const GemvJob& job = call.jobs[job_of(call, item)];
    return open_panel<F>(partner ? job.partner : job.weight, item - job.first_item, units, groups, lane);
  };
  Cursor<F> cursor = open(blockIdx.x);
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (part + d * plan.warps < units)
      load<F, kSteps, kWide>(ring[d], cursor, part + d * plan.warps, groups, plan.magic);
  }

  if (threadIdx.x == 0) fetch_ahead(call.ahead.from, call.ahead.bytes, blockIdx.x, gridDim.x);

  // The output that this thread finishes first.
  Addends early;
  const GemvJob& first_job = call.jobs[job_of(call, blockIdx.x)];
  const int early_row = threadIdx.x / 16,
            early_n = (static_cast<int>(blockIdx.x) - first_job.first_item) * 16 + threadIdx.x % 16;
  const bool has_early = early_row < call.rows && early_n < first_job.weight.n;
  if (has_early) load_biases(early, first_job, early_n);
  const bool slowly = like.order || (!call.x && k % 4 != 0);
  float4 norm_early[kEarly];
  if (!call.x && !slowly) {
#pragma unroll
    for (int c = 0; c < kEarly; ++c) {
      const int i = (threadIdx.x + c * blockDim.x) * 4;
      if (i < k) norm_early[c] = __ldg(reinterpret_cast<const float4*>(call.norm.weight + i));
    }
  }
  wait_for_previous();
  if (has_early) load_before(early, first_job, early_row, early_n);
  if (slowly) {
    stage_slowly(call, k, like.order, x, stride);
  } else if (call.x) {
    stage_copy(call, k, x, stride);
  } else {
    stage_norm(call, k, norm_early, x, stride, room);
  }
  __syncthreads();

  const Columns<F, kTiles> inputs = open_columns<F, kTiles>(x, stride, columns, lane);
  float acc[kTiles][4] = {};
  const int sum_size = block_warps * columns * 16;  // of a panel
  float* half = sums;
  for (int batch = blockIdx.x; batch < plan.items; batch += plan.together * step) {
    int held = 0;
#pragma unroll 1
    for (int item = batch; held < plan.together && item < plan.items; item += step, ++held) {
#pragma unroll 1
      for (int unit = part; unit - part < units; unit += kDepth * plan.warps) {
        int next = unit + kDepth * plan.warps;
        if (next - part >= units) {
          next = item + step < plan.items ? part : units;  // the panel after this one, or none
          if (next < units) cursor = open(item + step);
        }
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          if (unit + d * plan.warps < units)
            compute<F, kSteps, kWide, kTiles>(ring[d], float_scales, wide_zeros, inputs,
                                              (unit + d * plan.warps) * kUnitInputs<F>, acc);
          if (next + d * plan.warps < units)
            load<F, kSteps, kWide>(ring[d], cursor, next + d * plan.warps, groups, plan.magic);
        }
      }
      float* own = half + held * sum_size + warp * columns * 16 + lane / 4;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = tile * 8 + lane % 4 * 2 + i % 2;
          constexpr float kHigh = F == Form::kF16 ? 1.0f : kLowUnit<F> / kHighUnit<F>;
          if (column < columns) own[column * 16 + i / 2 * 8] = i < 2 ? acc[tile][i] : acc[tile][i] * kHigh;
          acc[tile][i] = 0;
        }
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < held * call.rows * 16; i += blockDim.x) {
      const int line = i / 16, which = call.rows == 1 ? line : plan.together == 1 ? 0 : line / call.rows;
      const int row = line - which * call.rows, item = batch + which * step;
      const GemvJob& job = call.jobs[job_of(call, item)];
      const int n = (item - job.first_item) * 16 + i % 16;
      if (n >= job.weight.n) continue;
      Addends addends = early;
      if (item != static_cast<int>(blockIdx.x) || i >= static_cast<int>(blockDim.x)) {
        addends = Addends();
        load_biases(addends, job, n);
        load_before(addends, job, row, n);
      }
      finish<F>(job, row, n, call.parts, half + which * sum_size, plan.warps, columns, addends);
    }
    // The other half is free: everyone has come past the barrier since it was read.
    half = half == sums ? sums + plan.together * sum_size : sums;
  }
}

// ⌈2³² / group⌉, by which an input becomes its group: the upper half of a product; 0 for one group.
uint32_t group_magic(const Weight& w) {
  if (!w.packed() || w.group >= w.k) return 0;
  expect(int64_t{w.k} * w.group < int64_t{1} << 32);  // else the quotients would not be exact
  return static_cast<uint32_t>((int64_t{1} << 32) / w.group) + ((int64_t{1} << 32) % w.group > 0 ? 1 : 0);
}

template <Form F, int kSteps, bool kWide, int kTiles>
void launch_form(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  const Weight& w = call.jobs[0].weight;
  const int items = shape.items, threads = shape.threads;
  const int columns = call.rows * call.parts;
  Plan plan;
  plan.items = items;
  plan.warps = shape.warps;
  plan.x_bytes = columns * static_cast<int>(input_stride(w.k) + kColumnPad<F>) * 2;
  plan.magic = group_magic(w);
  auto kernel = gemv_kernel<F, kSteps, kWide, kTiles>;
  static const bool raised = [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device().shared_bytes_per_block - 2048),
          "more shared memory");
    return true;
  }();
  static_cast<void>(raised);
  const auto shared_bytes = [&] {
    return static_cast<size_t>(plan.x_bytes + 2 * plan.together * threads / 32 * columns * 16 * 4);
  };
  const auto slots = [&] {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes()),
          "occupancy");
    return device().multiprocessors * std::max(blocks, 1);
  };
  plan.together = 1;
  if (columns <= 2) plan.together = std::clamp(items / slots(), 1, 4);
  const int rounds = (items + slots() - 1) / slots();
  const size_t shared = shared_bytes();
  launch(queue, overlap, (items + rounds - 1) / rounds, threads, shared, kernel, call, plan);
}

template <Form F, int kSteps, bool kWide>
void launch_tiles(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  if (call.rows * call.parts <= 8) {
    launch_form<F, kSteps, kWide, 1>(queue, call, shape, overlap);
  } else {
    launch_form<F, kSteps, kWide, 2>(queue, call, shape, overlap);
  }
}

}  // namespace
}  // namespace nibble::cuda
