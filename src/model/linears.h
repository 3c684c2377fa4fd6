// Linears that read the same input, in one pass of the pool: the input is converted once, and the output
// rows of all of them are dealt out together. A row's result does not depend on how they were dealt.
#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/dealing.h"
#include "model/model.h"
#include "model/precision.h"

namespace nibble {

struct LinearCall {
  const Linear* linear;
  float* y;  // [rows, linear->n]
};

class Linears {
 public:
  // Buffers for at most max_rows rows of input, max_found of them found (expect()); expect_packed: linears
  // may be packed later.
  Linears(const Model& model, const Precision& precision, int64_t max_rows, int64_t max_found,
          bool expect_packed, const KernelTable& kernels, ThreadPool& pool);
  uint64_t bytes() const;

  // Of the input of what follows the first `found` rows are tokens that the model found, for which reading
  // the weights is what takes the time, and the rest is text (Batch).
  void expect(int64_t found);
  // y = x · wᵀ + bias for every call; x [rows, k], k the same for all.
  void run(std::span<const LinearCall> calls, const float* x, int64_t rows);
  // sum += x · wᵀ + bias; y [rows, linear.n] is scratch.
  void run_added(const Linear& linear, const float* x, int64_t rows, float* y, float* sum);
  // What down of the block's MLP reads: up = silu(x · gateᵀ) ∘ (x · upᵀ), or gelu_new(x · upᵀ + bias) where
  // there is no gate; gate [rows, gate.n] is scratch.
  void run_inner(const Block& block, const float* x, int64_t rows, float* gate, float* up) {
    inner(block, x, rows, 0, gate, up);
  }
  // sum += what the block's MLP makes of x; the others are scratch, as wide as gate, up and down.
  void run_mlp(const Block& block, const float* x, int64_t rows, float* gate, float* up, float* down,
               float* sum);

 private:
  // How a linear wants its input: packed ones rounded to int8 with the sums of a group's inputs (or to bf16
  // for tiles), dense ones in bf16, or float32 as it is; and in which order.
  struct Form {
    int64_t group = 0;
    bool bf16 = false;
    const int32_t* order = nullptr;
    bool operator==(const Form&) const = default;
  };
  Form form_of(const Linear& linear) const;
  int64_t rows_by_int8(int64_t rows) const;
  ActI8View int8_view(int64_t k, int64_t group, int64_t rows);  // of what convert leaves
  // Of so many rows the last that are made in blocks (make_blocks), if any.
  int64_t rows_by_blocks(const Form& form, int64_t rows) const;
  // What a linear reads: x as it is or in its order, or in bf16. (int8 codes lie in int8_view.)
  struct Input {
    const float* x;
    const uint16_t* bf16;
  };
  // Makes the linears' input of x; the last `ready` rows are there as tiles of the MLP's inner rows.
  Input convert(const Form& form, const float* x, int64_t rows, int64_t k, int64_t ready = 0);
  // Rows [16·begin, 16·end) of the output, but not for the last by_blocks rows of x.
  void compute(const LinearCall& call, const Input& in, int64_t rows, int64_t by_blocks, int64_t begin,
               int64_t end, int thread);
  void by_bf16(const Linear& linear, const uint16_t* x, float* y, int64_t ldy, int64_t rows, int64_t begin,
               int64_t end, int thread);
  // body(row, rows, first, last) for the blocks of rows and of so many units of [begin, end).
  template <typename Body>
  void for_blocks(int64_t by_blocks, int64_t begin, int64_t end, int64_t units, const Body& body);
  // Rows [16·begin, 16·end) of the output, at most as many as there is room for from block `which` on, for
  // rows [row, row + rows) of x's tiles: [rows][columns], a multiple of 32, zeros where there are fewer
  // outputs.
  float* make_blocks(const Linear& linear, const uint16_t* x, int64_t row, int64_t rows, int64_t begin,
                     int64_t end, int thread, int which);
  // run_inner, but the last by_blocks rows become tiles in bf16_.
  void inner(const Block& block, const float* x, int64_t rows, int64_t by_blocks, float* gate, float* up);
  void add(const Linear& linear, const Input& in, int64_t rows, float* y, float* sum);
  void activate(const float* gate, float* up, int64_t n) const;  // gate null: GELU
  float* scratch_of(int thread) {
    return scratch_.data() + static_cast<size_t>(thread) * scratch_per_thread_;
  }

  Precision precision_;
  int64_t max_found_ = 0, found_ = 0;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  Dealing dealing_;
  AlignedBuffer<uint16_t> bf16_;  // the input; from inner_at_ on tiles of the MLP's inner rows
  int64_t inner_at_ = 0;
  AlignedBuffer<int8_t> int8_;
  AlignedBuffer<float> int8_scales_, int8_units_, int8_sums_;
  AlignedBuffer<int32_t> int8_steps_, int8_counts_;
  AlignedBuffer<float> ordered_;  // inputs in the order of their weight's columns
  AlignedBuffer<float> scratch_;  // [threads][scratch_per_thread_], of packed linears
  size_t scratch_per_thread_ = 0;
  AlignedBuffer<float> blocks_;  // [threads][kBlocks][block_floats_], of block_rows_ rows
  int64_t block_rows_ = 0, block_floats_ = 0;
};

}  // namespace nibble
