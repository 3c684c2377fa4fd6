// Which form of the kernel takes a product of few rows, with how many warps (gemv_kernel.cuh).
#include <algorithm>

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {

// Threads of gemv_kernel that a multiprocessor's 65,536 registers hold.
constexpr int kThreadsAtOnce = 65536 / kGemvRegisters;

// Shared memory that the largest block needs for so many columns: the input and the sums.
int64_t shared_for(int columns, int k) {
  const int64_t input = columns * (input_stride(k) + 32) * 2, sums = int64_t{2} * 16 * columns * 16 * 4;
  return input + sums + 4096;
}

}  // namespace

int steps_of(const Weight& w) {
  if (!w.packed()) return 1;
  const int most = w.kind == WeightKind::kQ4 ? 4 : 2;
  for (int steps = most; steps > 1; steps /= 2) {
    if (w.group >= w.k || w.group % (steps * 16) == 0) return steps;
  }
  return 1;
}

bool same_form(const Weight& a, const Weight& b) {
  return a.kind == b.kind && a.k == b.k && a.order == b.order && a.stride == b.stride &&
         (!a.packed() ||
          (a.group == b.group && a.float_scales == b.float_scales && a.wide_zeros == b.wide_zeros));
}

int gemv_rows(int k, int parts) {
  int columns = kMaxColumns;
  while (columns > 0 && shared_for(columns, k) > device().shared_bytes_per_block) --columns;
  return columns / parts;
}

Gemv gemv_of(const Weight& weight, const void* x, int64_t ldx, int rows, int parts, bool add, float* y,
             int64_t ldy) {
  Gemv call;
  call.n_jobs = 1;
  call.jobs[0].weight = weight;
  call.jobs[0].finish = add ? Finish::kAdd : Finish::kStore;
  call.jobs[0].y = y;
  call.jobs[0].ldy = ldy;
  call.rows = rows;
  call.parts = parts;
  call.x = x;
  call.ldx = ldx;
  return call;
}

void gemv(Queue& queue, Gemv call, bool overlap) {
  const Weight& w = call.jobs[0].weight;
  expect(call.n_jobs >= 1 && call.n_jobs <= kMaxJobs && call.rows >= 1);
  expect(call.rows <= gemv_rows(w.k, call.parts));
  const bool pair = call.jobs[0].finish == Finish::kSwiGlu;
  int items = 0;
  for (int j = 0; j < call.n_jobs; ++j) {
    GemvJob& job = call.jobs[j];
    expect(same_form(job.weight, w) && (!pair || (call.n_jobs == 1 && same_form(job.partner, w))));
    job.first_item = items;
    items += (job.weight.n + 15) / 16;
  }
  expect(w.has_gemv());
  const bool narrow = w.kind == WeightKind::kQ4;
  const int units = narrow ? (w.k + 63) / 64 : (w.k + 31) / 32;
  // As many warps a panel as let all panels run at once; where they are too many for that, few. Each warp has
  // something to do.
  const int sides = pair ? 2 : 1, most = std::min(kMaxThreads / 32 / sides, units);
  int warps = most;
  while (warps > 1 && items > device().multiprocessors * (kThreadsAtOnce / (warps * sides * 32))) --warps;
  if (warps == 1) warps = std::min(4 / sides, most);
  const GemvShape shape{items, warps, warps * 32 * sides, steps_of(w),
                        w.float_scales || (w.wide_zeros && narrow)};
  if (w.kind == WeightKind::kF16) return gemv_f16(queue, call, shape, overlap);
  if (narrow) return gemv_q4(queue, call, shape, overlap);
  gemv_q8(queue, call, shape, overlap);
}

}  // namespace nibble::cuda
