// A frozen weight for products in bf16 with sums in float32: it and its transpose, as the kernels of
// inference read weights. An adapter's share is not in it.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "train/parameters.h"

namespace nibble {

class RoundedWeight {
 public:
  RoundedWeight() = default;  // none
  // w [n, k] rounded to bf16; products are table.dense_bf16_bf16, which must be there.
  RoundedWeight(const TrainedLinear& linear, const KernelTable& table, ThreadPool& pool);
  explicit operator bool() const { return rows_.size() > 0; }

  // Both round their input to bf16, in `room`, which grows as needed.
  // y[m, n] = x[m, k]·wᵀ, + bias[n] where not null.
  void forward(const float* x, int64_t m, const float* bias, float* y, AlignedBuffer<uint16_t>& room,
               ThreadPool& pool) const;
  // dx[m, k] = dy[m, n]·w.
  void backward(const float* dy, int64_t m, float* dx, AlignedBuffer<uint16_t>& room, ThreadPool& pool) const;

  uint64_t bytes() const { return rows_.bytes() + columns_.bytes(); }

 private:
  const KernelTable* table_ = nullptr;
  int64_t n_ = 0, k_ = 0;
  AlignedBuffer<uint16_t> rows_, columns_;  // [n, k], [k, n]
};

}  // namespace nibble
