// A call's jobs, as the kernels for few rows (gemv_kernel.cuh, step.cu) find and finish them.
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

// What finished() adds to output n of a row, read from memory early.
struct Addends {
  float bias = 0, partner_bias = 0, before = 0;
};
__device__ __forceinline__ void load_biases(Addends& a, const GemvJob& job, int n) {
  if (job.weight.bias) a.bias = __ldg(job.weight.bias + n);
  if (job.partner.bias) a.partner_bias = __ldg(job.partner.bias + n);
}

// What the sums over a weight count.
template <Form F>
__device__ __forceinline__ float unit_of(const Weight& weight) {
  return kInputUnit * (F == Form::kF16 ? weight.unit : 1 / kLowUnit<F>);
}

// An output: sum(false) and, of a pair, sum(true) over its weights, turned into what is asked for.
template <Form F, typename Sum>
__device__ __forceinline__ float finished(const GemvJob& job, Finish finish, const Addends& addends,
                                          const Sum& sum) {
  const float value = sum(false) * unit_of<F>(job.weight) + addends.bias;
  if (finish == Finish::kStore) return value;
  if (finish == Finish::kAdd) return addends.before + value;
  if (finish == Finish::kGelu) return gelu_new(value);
  return silu(value) * (sum(true) * unit_of<F>(job.partner) + addends.partner_bias);
}

}  // namespace
}  // namespace nibble::cuda
