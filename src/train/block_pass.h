// One block on whole sequences in float32: forward with the activations that the way back needs, and
// backward.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/forward_pass.h"
#include "train/parameters.h"

namespace nibble {

// Of one block, for one batch: [tokens, width].
struct BlockActivations {
  AlignedBuffer<float> attn_in, q, k, v, attended, middle, mlp_in, gate, up, inner;
  BlockActivations(const ModelConfig& config, size_t tokens);
  uint64_t bytes() const;
};

class BlockPass {
 public:
  // Memory for batches of at most `tokens` tokens in sequences of at most `context`, and for the weights of a
  // block like `like`. scratch: floats that a thread needs of scratch() beside what blocks need.
  BlockPass(const Model& model, const TrainedBlock& like, int tokens, int context, size_t scratch,
            ThreadPool& pool);

  // Throws Error for a batch that does not fit, or a token outside the vocabulary. Segments are whole
  // sequences from position 0; slots are not read. What follows is about this batch, which must stay.
  void begin(const Batch& batch);
  int64_t tokens() const { return tokens_; }
  // The block's weights as they are now, for the calls that follow.
  void load(TrainedBlock& block);
  // out [tokens, hidden] = block of h; `act` then holds what the way back needs.
  void forward(TrainedBlock& block, const float* h, BlockActivations& act, float* out);
  // gradient [tokens, hidden] of the block's output becomes that of its input, and the gradients of what is
  // trained are added to; `act` is used up.
  void backward(TrainedBlock& block, const float* h, BlockActivations& act, float* gradient);

  void norm(const TrainedNorm& norm, const float* x, float* y);
  // Adds to gradient and to the norm's.
  void norm_backward(TrainedNorm& norm, const float* x, const float* dy, float* gradient);

  float* scratch(int thread) { return scratch_.data() + static_cast<size_t>(thread) * share_; }
  uint64_t bytes() const;

 private:
  void backward_mlp(TrainedBlock& block, BlockActivations& act, float* dx, const float* gradient);
  void backward_attention(TrainedBlock& block, BlockActivations& act, float* dx, const float* gradient);
  const float* weight(const TrainedBlock& block, const TrainedLinear* linear) const;
  void linear(const TrainedBlock& block, const TrainedLinear& l, const float* x, float* y);
  // dx [tokens, k] = dy·w, or += with `add`; and the gradients of the linear.
  void linear_backward(TrainedBlock& block, TrainedLinear& l, const float* x, const float* dy, float* dx,
                       bool add);
  void add(float* y, const float* x, int64_t n);
  template <typename Body>
  void for_heads(const Body& body);
  template <typename Body>
  void for_positions(const Body& body);

  const Model& model_;
  const ModelConfig& config_;
  const int capacity_, context_;
  ThreadPool& pool_;
  const KernelTable& kernels_;
  const Batch* batch_ = nullptr;
  int64_t tokens_ = 0;                                // of the batch in hand
  AlignedBuffer<float> rope_;                         // [context][rope_dims/2][cos, sin]
  std::vector<AlignedBuffer<float>> weight_buffers_;  // of a block's linears
  std::vector<const float*> weights_;  // of the block in hand, by their place in TrainedBlock::linears
  AlignedBuffer<float> wide_;          // [tokens, max(query size, intermediate)]
  AlignedBuffer<float> dx_, dq_, dk_, dv_, dk_shared_, dv_shared_;
  AlignedBuffer<float> scratch_;  // [threads], for whatever a task needs
  size_t share_ = 0;              // floats of it a thread has
};

}  // namespace nibble
