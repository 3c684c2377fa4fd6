// What the kernels for few rows (gemv_kernel.cuh, step.cu) ask of a call's jobs.
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

}  // namespace
}  // namespace nibble::cuda
