// Loss and gradients of a model on whole sequences: forward, then block by block backward, each block's
// activations computed again from its input.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/forward_pass.h"
#include "train/loss.h"
#include "train/parameters.h"

namespace nibble {

struct GradientOptions {
  int batch_tokens = 512;  // most tokens of a batch
  int context = 512;       // most tokens of a sequence
  bool recompute = true;   // false: every block's activations are kept, a forward pass less and more memory
};

class GradientPass {
 public:
  // Memory for all that follows. Throws Error when the options make no sense for the model.
  GradientPass(TrainedModel& model, const GradientOptions& options, ThreadPool& pool);

  // Segments are whole sequences: each starts at position 0, slots are not read. Throws Error for a batch
  // that does not fit, or a token outside the vocabulary.
  double loss(const Batch& batch, Loss& loss);
  // The same, and adds ∂loss to the gradients of what is trained.
  double gradients(const Batch& batch, Loss& loss);

  uint64_t workspace_bytes() const;

 private:
  // Of one block, for one batch: [tokens, width].
  struct Activations {
    AlignedBuffer<float> attn_in, q, k, v, attended, middle, mlp_in, gate, up, inner;
    Activations(const ModelConfig& config, size_t tokens);
    uint64_t bytes() const;
  };
  // The weights of a linear of the block in hand, by its place in TrainedBlock::linears.
  using Weights = std::vector<const float*>;

  void check(const Batch& batch) const;
  void load(TrainedBlock& block);
  const float* weight(const TrainedBlock& block, const TrainedLinear* linear) const;
  void embed(const Batch& batch);
  void forward(const Batch& batch);
  // out [tokens, hidden] = block of h; `act` then holds what the way back needs.
  void forward_block(TrainedBlock& block, const Batch& batch, const float* h, Activations& act, float* out);
  // gradient_ of the block's output becomes that of its input.
  void backward_block(TrainedBlock& block, const Batch& batch, const float* h, Activations& act);
  void backward_mlp(TrainedBlock& block, Activations& act, float* dx);
  void backward_attention(TrainedBlock& block, const Batch& batch, Activations& act, float* dx);
  double head(const Batch& batch, Loss& loss, bool gradients);
  void embedding_gradient(const Batch& batch);

  void norm(const TrainedNorm& norm, const float* x, float* y);
  void norm_backward(TrainedNorm& norm, const float* x, const float* dy);  // adds to gradient_
  void linear(const TrainedBlock& block, const TrainedLinear& l, const float* x, float* y);
  // dx [tokens, k] = dy·w, or += with `add`; and the gradients of the linear.
  void linear_backward(TrainedBlock& block, TrainedLinear& l, const float* x, const float* dy, float* dx,
                       bool add);
  void add(float* y, const float* x, int64_t n);
  template <typename Body>
  void for_heads(const Batch& batch, const Body& body);
  template <typename Body>
  void for_positions(const Batch& batch, const Body& body);

  TrainedModel& model_;
  const ModelConfig& config_;
  GradientOptions options_;
  ThreadPool& pool_;
  const KernelTable& kernels_;
  int64_t tokens_ = 0;         // of the batch in hand
  int64_t head_rows_ = 0;      // rows of logits at a time
  AlignedBuffer<float> rope_;  // [context][rope_dims/2][cos, sin]
  std::vector<AlignedBuffer<float>>
      stream_;                     // [blocks + 1], each [tokens, hidden]: what goes into each block
  std::vector<Activations> kept_;  // of each block, or of one
  std::vector<AlignedBuffer<float>> weight_buffers_;  // of a block's linears
  Weights weights_;
  AlignedBuffer<float> normed_;    // [tokens, hidden], what the head reads
  AlignedBuffer<float> gradient_;  // [tokens, hidden], of the residual stream
  AlignedBuffer<float> wide_;      // [tokens, max(query size, intermediate)]
  AlignedBuffer<float> dx_, dq_, dk_, dv_, dk_shared_, dv_shared_;
  AlignedBuffer<float> logits_, panel_out_;  // [head_rows_, vocab]; [threads][head_rows_, hidden]
  AlignedBuffer<float> scratch_;             // [threads], for whatever a task needs
  size_t share_ = 0;                         // floats of it a thread has
};

}  // namespace nibble
