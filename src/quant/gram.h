// Σ x·xᵀ over the calibration text, the largest sum of products that quantizing a model takes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"

namespace nibble {

// Adds up x·xᵀ. The result does not depend on the number of threads.
//
// With matrix tiles x is rounded to bf16, as the tiles' products with the weights round it too, and sums are
// float32. Without them x is rounded to integers of about 12 bits: columns of 512 tokens share a scale, sums
// of products are exact in int32 and added up in float32. A token that is far larger than the others in some
// column (the first one of a text, say) would take their precision; it goes through float32 instead. Either
// way the rounding errors are independent of each other, so they add less than 0.1 % to the diagonal and
// nothing beside it.
class GramSum {
 public:
  GramSum(int64_t k, ThreadPool& pool, const KernelTable& kernels = nibble::kernels());
  void add(const float* x, int64_t rows);  // [rows, k]
  std::vector<float> take();               // [k, k], symmetric

 private:
  void add_bf16(const float* x, int64_t rows);
  void sum_steps();  // adds the products of the steps that wait
  void add_piece(const float* x, int64_t rows);
  void add_integers(const float* x, int64_t rows, const std::vector<uint8_t>& apart);
  // Adds the products of two panels of columns, [16, 16].
  void add_tile(int64_t above, int64_t beside, const int32_t* sums);

  int64_t k_;
  ThreadPool& pool_;
  const KernelTable& kernels_;
  std::vector<float> gram_;  // upper triangle

  AlignedBuffer<uint16_t> panels_;  // of bf16, as KernelTable::gram_bf16 reads them
  int64_t steps_ = 0;               // of them, filled

  std::vector<float> mean_, step_;  // of a piece's columns: mean |x|, value of an integer's step
  std::vector<float> apart_rows_;
  std::vector<int16_t> columns_;  // panels as KernelTable::products_i16 reads them
};

}  // namespace nibble
