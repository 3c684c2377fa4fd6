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
#include "train/rounded_weight.h"

namespace nibble {

// Of one block, for one batch: [tokens, width].
struct BlockActivations {
  AlignedBuffer<float> attn_in, q, k, v, attended, middle, mlp_in, gate, up, inner;
  BlockActivations(const ModelConfig& config, size_t tokens);
  uint64_t bytes() const;
};

class BlockPass {
 public:
  // Memory for batches of at most `tokens` tokens in sequences of at most `context`, and for the weights of
  // `places` blocks like `like`. scratch: floats that a thread needs of scratch() beside what blocks need.
  // bf16: frozen weights are multiplied by its dense_bf16_bf16; a block then keeps its place. Null: float32.
  BlockPass(const Model& model, const TrainedBlock& like, int tokens, int context, size_t scratch,
            ThreadPool& pool, size_t places = 1, const KernelTable* bf16 = nullptr);

  // Throws Error for a batch that does not fit, or a token outside the vocabulary. Segments are whole
  // sequences from position 0; slots are not read. What follows is about this batch, which must stay.
  void begin(const Batch& batch);
  int64_t tokens() const { return tokens_; }
  // The block's weights as they are now, for the calls that follow; they stay at their place for use().
  void load(TrainedBlock& block, size_t place = 0);
  void use(size_t place) { place_ = place; }
  // out [tokens, hidden] = block of h; `act` then holds what the way back needs.
  void forward(TrainedBlock& block, const float* h, BlockActivations& act, float* out);
  // gradient [tokens, hidden] of the block's output becomes that of its input, and the gradients of what is
  // trained are added to; `act` is used up. input false: nothing before the block is trained, and `gradient`
  // holds nothing of use afterwards.
  void backward(TrainedBlock& block, const float* h, BlockActivations& act, float* gradient, bool input);

  void norm(const TrainedNorm& norm, const float* x, float* y);
  // Adds to gradient and to the norm's.
  void norm_backward(TrainedNorm& norm, const float* x, const float* dy, float* gradient);

  float* scratch(int thread) { return scratch_.data() + static_cast<size_t>(thread) * share_; }
  uint64_t bytes() const;

 private:
  void backward_mlp(TrainedBlock& block, BlockActivations& act, float* dx, const float* gradient);
  void backward_attention(TrainedBlock& block, BlockActivations& act, float* dx, const float* gradient);
  static size_t index(const TrainedBlock& block, const TrainedLinear& l) {
    return static_cast<size_t>(&l - block.linears.data());
  }
  void linear(const TrainedBlock& block, const TrainedLinear& l, const float* x, float* y);
  // dx [tokens, k] = dy·w, or += with `add`, unless dx is null; and the gradients of the linear.
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
  const KernelTable* bf16_;
  const Batch* batch_ = nullptr;
  int64_t tokens_ = 0;         // of the batch in hand
  AlignedBuffer<float> rope_;  // [context][rope_dims/2][cos, sin]
  struct Weights {
    std::vector<AlignedBuffer<float>> buffers;
    std::vector<const float*> data;      // there or in the parameter itself
    std::vector<RoundedWeight> rounded;  // of those that are multiplied in bf16: instead of both
  };
  std::vector<Weights> weights_;  // by place; each by its linear's index in TrainedBlock::linears
  size_t place_ = 0;              // of the block in hand
  AlignedBuffer<float> wide_;     // [tokens, max(query size, intermediate)]
  AlignedBuffer<float> sum_;      // [tokens, hidden], where products in bf16 are added to others
  AlignedBuffer<uint16_t> room_;  // their inputs
  AlignedBuffer<float> dx_, dq_, dk_, dv_, dk_shared_, dv_shared_;
  AlignedBuffer<float> scratch_;  // [threads], for whatever a task needs
  size_t share_ = 0;              // floats of it a thread has
};

}  // namespace nibble
