// What the kernels for few rows (gemv_kernel.cuh, step.cu) make of a panel's sums.
#pragma once

#include "kernels/cuda/gemv_fragment.cuh"

namespace nibble::cuda {
namespace {

// `item`: a panel of one of the jobs.
__device__ __forceinline__ int job_of(const Gemv& call, int item) {
  int job = 0;
#pragma unroll 1
  while (job + 1 < call.n_jobs && item >= call.jobs[job + 1].first_item) ++job;
  return job;
}

// What finish() reads of memory for output n of a row, asked for early.
struct Addends {
  float bias = 0, partner_bias = 0, before = 0;
};
__device__ __forceinline__ void load_biases(Addends& a, const GemvJob& job, int n) {
  if (job.weight.bias) a.bias = __ldg(job.weight.bias + n);
  if (job.partner.bias) a.partner_bias = __ldg(job.partner.bias + n);
}
__device__ __forceinline__ void load_before(Addends& a, const GemvJob& job, int row, int n) {
  if (job.finish == Finish::kAdd) a.before = job.y[row * job.ldy + n];
}

// What the sums over a weight count.
template <Form F>
__device__ __forceinline__ float unit_of(const Weight& weight) {
  return kInputUnit * (F == Form::kF16 ? weight.unit : 1 / kLowUnit<F>);
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
  float value = total(0) * unit_of<F>(job.weight) + addends.bias;
  if (job.finish == Finish::kStore) {
    job.y[row * job.ldy + n] = value;
  } else if (job.finish == Finish::kAdd) {
    job.y[row * job.ldy + n] = addends.before + value;
  } else {
    value = job.finish == Finish::kGelu
                ? gelu_new(value)
                : silu(value) * (total(warps) * unit_of<F>(job.partner) + addends.partner_bias);
    store_parts(static_cast<__half*>(job.out) + row * parts * job.ld_out + n, job.ld_out, parts, value);
  }
}

// ⌈2³² / group⌉, by which an input becomes its group: the upper half of a product; 0 for one group.
inline uint32_t group_magic(const Weight& w) {
  if (!w.packed() || w.group >= w.k) return 0;
  expect(int64_t{w.k} * w.group < int64_t{1} << 32);  // else the quotients would not be exact
  return static_cast<uint32_t>((int64_t{1} << 32) / w.group) + ((int64_t{1} << 32) % w.group > 0 ? 1 : 0);
}

}  // namespace
}  // namespace nibble::cuda
