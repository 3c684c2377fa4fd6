// Linears that read the same input, in one pass of the pool: the input is converted once, and the output
// rows of all of them are dealt out together. A row's result does not depend on how they were dealt.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
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
  // y = silu(x · gateᵀ) ∘ (x · upᵀ); g [rows, gate.n] is scratch.
  void run_gated(const Linear& gate, const Linear& up, const float* x, int64_t rows, float* g, float* y);
  // y = gelu_new(x · upᵀ + bias)
  void run_gelu(const Linear& up, const float* x, int64_t rows, float* y);

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
  // Makes the linears' input of x; returns what takes its place for those that read float32.
  const float* convert(const Form& form, const float* x, int64_t rows, int64_t k);
  // Rows [16·begin, 16·end) of the output.
  void compute(const LinearCall& call, const float* x, int64_t rows, int64_t begin, int64_t end, int thread);
  // body(begin, end, thread) over [0, units), of the pass that begins with `first`.
  template <typename Body>
  void deal(const Linear& first, int64_t rows, int64_t units, const Body& body);
  int64_t pieces_of(int64_t units, int64_t rows) const;
  // Lets the threads that wait for the pass after that of `first` bring in what they will read there.
  void announce_next(const Linear& first, int64_t rows);

  Precision precision_;
  int64_t max_found_ = 0, found_ = 0;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  // First linear of a pass -> those whose rows the next pass deals out (of gate and up, which go together,
  // gate).
  std::unordered_map<const Linear*, std::vector<const Linear*>> next_;
  AlignedBuffer<uint16_t> bf16_;
  AlignedBuffer<int8_t> int8_;
  AlignedBuffer<float> int8_scales_, int8_units_, int8_sums_;
  AlignedBuffer<int32_t> int8_steps_, int8_counts_;
  AlignedBuffer<float> ordered_;  // inputs in the order of their weight's columns
  AlignedBuffer<float> scratch_;  // [threads][scratch_per_thread_], of packed linears
  size_t scratch_per_thread_ = 0;
};

}  // namespace nibble
