// Where quantization computes: the stages of a block over calibration text, the sums of what they give, and
// what GPTQ needs of a card. The processor's is the reference.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/forward_pass.h"
#include "quant/method.h"

namespace nibble {

// What a stage gives for some tokens, in the memory of who computed it.
struct Observed {
  const float* x;                    // [rows, k]: the linears' input
  const float* reference = nullptr;  // [rows, k]: the same in the unquantized stream
  const float* target = nullptr;     // [rows, n]: what the linear's output should be
};

// Sums over the calibration text of what one linear input does.
class InputSums {
 public:
  virtual ~InputSums() = default;
  virtual void add(const Observed& rows, int64_t count) = 0;
  // Appends the values at `from`.
  virtual void keep(const float* from, int64_t count, std::vector<float>& to) = 0;
  // Gram, drift and pull, as far as they were wanted or came; magnitudes[k] = Σ |x|.
  virtual void finish(InputStatistics& to, std::vector<double>& magnitudes) = 0;
};

// n: width of the targets, 0: none come. gram: whether the Gram matrix is wanted.
std::unique_ptr<InputSums> processor_sums(int64_t k, int64_t n, bool gram, ThreadPool& pool);

// GPTQ's large steps on a card.
class GptqCard {
 public:
  virtual ~GptqCard() = default;
  // The factor of quant/inverse_hessian.h with damping `share`; false where there is none.
  virtual bool factor(const InputStatistics& input, std::span<const int64_t> order, double share,
                      std::vector<float>& u) = 0;
  // As gptq_loop (quant/gptq.h).
  virtual QuantizedMatrix loop(std::span<const float> weight, const std::vector<float>& u,
                               std::span<const int64_t> order, const PackedFormat& format) = 0;
  // As refine_codes (quant/refine.h); `input` is the one that factor() had last.
  virtual void refine(std::span<const float> weight, const InputStatistics& input, double damp, int sweeps,
                      QuantizedMatrix& matrix) = 0;
};

class Compute {
 public:
  virtual ~Compute() = default;

  // Memory for activations, there as long as this is; only the calls below read and write it.
  virtual float* allocate(int64_t floats) = 0;
  virtual void copy(float* to, const float* from, int64_t count) = 0;

  // The stages of a block. A batch is one sequence from position 0; its last attention() is forgotten.
  // h[rows, hidden]: the residual stream. Throws Error for a token outside the vocabulary.
  virtual void embed(const Batch& batch, float* h) = 0;
  virtual void norm(const Norm& norm, const float* h, float* x, int64_t rows) = 0;
  // a[rows, n_heads·head_dim]: before the o projection.
  virtual void attention(const Block& block, int layer, const Batch& batch, const float* x, float* a) = 0;
  // y[rows, intermediate]: the input of the down projection.
  virtual void mlp_inner(const Block& block, const float* x, float* y, int64_t rows) = 0;
  virtual void linear(const Linear& linear, const float* x, float* y, int64_t rows) = 0;
  virtual void add(float* y, const float* x, int64_t count) = 0;  // y += x
  // to[rows, width] = a − b − bias; bias: [width] or empty.
  virtual void subtract(const float* a, const float* b, const std::vector<float>& bias, int64_t rows,
                        int64_t width, float* to) = 0;
  // Linears or norms that were given before may have changed.
  virtual void weights_changed() = 0;

  // Keeps x [rows, k], the input of a packed linear, as linear() reads it, where that takes half the memory;
  // false: it is not kept, nor is any after it. recall gives what was kept, in the same order and to the same
  // effect; false: no more is there. forget() ends both.
  virtual bool keep(const float* x, int64_t count) = 0;
  virtual bool recall(float* x, int64_t count) = 0;
  virtual void forget() = 0;

  virtual std::unique_ptr<InputSums> sums(int64_t k, int64_t n, bool gram) = 0;
  virtual GptqCard* card() = 0;  // null: the processor does it
};

// tokens: of the longest sample. Throws Error where the device is not there.
std::unique_ptr<Compute> open_compute(Device device, std::shared_ptr<const Model> model, int tokens,
                                      ThreadPool& pool);
// open_compute() for a card; without CUDA in the build quant/cuda_absent.cpp says so.
std::unique_ptr<Compute> open_cuda_compute(std::shared_ptr<const Model> model, int tokens, ThreadPool& pool);

}  // namespace nibble
