// From logits to what is asked of them: the likeliest token, the likelihood of a given one.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerRow = 32;

// Ordered as the numbers are, the lower index first among equals; NaN is 0.
__device__ unsigned long long key_of(float value, uint32_t index) {
  if (isnan(value)) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - index);
}

__device__ int32_t index_of(unsigned long long key) {
  return key == 0 ? 0 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}

__global__ void argmax_kernel(const float* logits, int64_t vocab, uint64_t* keys) {
  __shared__ unsigned long long of_warps[kThreads / 32];
  let_next_start();
  wait_for_previous();
  const float* row = logits + blockIdx.y * vocab;
  unsigned long long best = 0;
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < vocab; i += kBlocksPerRow * kThreads)
    best = max(best, key_of(row[i], static_cast<uint32_t>(i)));
  for (int step = 16; step > 0; step /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, step));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (const unsigned long long other : of_warps) best = max(best, other);
  atomicMax(reinterpret_cast<unsigned long long*>(keys) + blockIdx.y, best);
}

__global__ void best_kernel(uint64_t* keys, int rows, int32_t* best) {
  wait_for_previous();
  const int row = threadIdx.x;
  if (row >= rows) return;
  best[row] = index_of(keys[row]);
  keys[row] = 0;
}

__global__ void advance_kernel(Loop loop) {
  let_next_start();
  wait_for_previous();
  const int row = threadIdx.x, step = *loop.step;
  __syncthreads();
  if (row < loop.rows) {
    const int32_t token = index_of(loop.keys[row]);
    loop.keys[row] = 0;
    loop.tokens[row] = token;
    loop.positions[row] += 1;
    loop.found[step * loop.rows + row] = token;
  }
  if (row == 0) {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    loop.times[step] = now;
    *loop.step = step + 1;
  }
}

template <typename T, typename Combine>
__device__ T block_reduce(T value, T* room, Combine combine) {
  for (int step = 16; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
  __syncthreads();
  value = room[0];
  for (int w = 1; w < kThreads / 32; ++w) value = combine(value, room[w]);
  return value;
}

// A block a question. ln p = logit − top − ln Σ exp(logit − top), the sum in float64 over float32 stretches.
__global__ void score_kernel(const float* logits, int64_t vocab, const Question* questions, Answer* answers) {
  __shared__ double room[kThreads / 32];
  __shared__ float float_room[kThreads / 32];
  __shared__ int int_room[kThreads / 32];
  wait_for_previous();
  const Question question = questions[blockIdx.x];
  const float* row = logits + question.row * vocab;
  float top = -INFINITY;
  int broken = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    broken |= isnan(row[i]);
    top = fmaxf(top, row[i]);
  }
  top = block_reduce(top, float_room, [](float a, float b) { return fmaxf(a, b); });
  double sum = 0;
  int earlier = 0;  // an equal one with a lower index
  for (int64_t i = threadIdx.x; i < vocab;) {
    float stretch = 0;
    for (int j = 0; j < 64 && i < vocab; ++j, i += kThreads) {
      stretch += expf(row[i] - top);
      earlier |= row[i] == top && i < question.token;
    }
    sum += static_cast<double>(stretch);
  }
  sum = block_reduce(sum, room, [](double a, double b) { return a + b; });
  const int flags = block_reduce(broken | earlier << 1, int_room, [](int a, int b) { return a | b; });
  if (threadIdx.x > 0) return;
  const float logit = row[question.token];
  answers[blockIdx.x] = {static_cast<double>(logit) - (static_cast<double>(top) + log(sum)),
                         logit == top && flags == 0, flags & 1};
}

}  // namespace

void argmax(Queue& queue, const float* logits, int64_t vocab, int rows, uint64_t* keys, bool overlap) {
  launch(queue, overlap, dim3(kBlocksPerRow, rows), kThreads, 0, argmax_kernel, logits, vocab, keys);
}

void best_of(Queue& queue, uint64_t* keys, int rows, int32_t* best) {
  expect(rows <= 1024);
  launch(queue, false, 1, (rows + 31) / 32 * 32, 0, best_kernel, keys, rows, best);
}

void score(Queue& queue, const float* logits, int64_t vocab, const Question* questions, int count,
           Answer* answers) {
  launch(queue, false, count, kThreads, 0, score_kernel, logits, vocab, questions, answers);
}

void advance(Queue& queue, const Loop& loop, bool overlap) {
  expect(loop.rows <= 32);
  launch(queue, overlap, 1, 32, 0, advance_kernel, loop);
}

}  // namespace nibble::cuda
