// Loss and gradients of a model on whole sequences: forward, then block by block backward, each block's
// activations computed again from its input.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/forward_pass.h"
#include "train/block_pass.h"
#include "train/loss.h"
#include "train/parameters.h"

namespace nibble {

struct GradientOptions {
  int batch_tokens = 512;  // most tokens of a batch
  int context = 512;       // most tokens of a sequence
  bool recompute = true;   // false: every block's activations are kept, a forward pass less and more memory
  bool keep_weights = false;  // float32 copies of all weights are kept: made once a step, weight_bytes() more
  // With kept weights: frozen ones and what they are multiplied with are rounded to bf16, sums are float32,
  // by this table's dense_bf16_bf16. Null: all in float32.
  const KernelTable* bf16 = nullptr;
};

// Of the trained model since the last call.
enum class Since { kChanged, kUnchanged };

class GradientPass {
 public:
  // Memory for all that follows. Throws Error when the options make no sense for the model.
  GradientPass(TrainedModel& model, const GradientOptions& options, ThreadPool& pool);

  // Segments are whole sequences: each starts at position 0, slots are not read. Throws Error for a batch
  // that does not fit, or a token outside the vocabulary.
  double loss(const Batch& batch, Loss& loss, Since since = Since::kChanged);
  // The same, and adds ∂loss to the gradients of what is trained.
  double gradients(const Batch& batch, Loss& loss, Since since = Since::kChanged);

  bool bf16() const { return options_.bf16 != nullptr; }
  uint64_t workspace_bytes() const;
  // What keep_weights takes.
  static uint64_t weight_bytes(TrainedModel& model);

 private:
  void embed(const Batch& batch);
  void load(size_t i, Since since);  // the weights of block i
  void forward(const Batch& batch, Since since);
  double head(const Batch& batch, Loss& loss, bool gradients);
  // Rows of the head's weight, in `scratch` where they are not in memory.
  const float* head_rows(int64_t first, int64_t count, float* scratch) const;
  void logits(const float* x, int64_t rows);  // of x [rows, hidden] into logits_
  // Of ∂loss/∂logits in logits_: dx_ of the tokens to[rows], and what of the head is trained.
  void head_backward(const float* x, int64_t rows, const int64_t* to);
  void embedding_gradient(const Batch& batch);

  TrainedModel& model_;
  const ModelConfig& config_;
  GradientOptions options_;
  ThreadPool& pool_;
  const KernelTable& kernels_;
  BlockPass block_;
  int64_t head_rows_ = 0;              // rows of logits at a time
  AlignedBuffer<float> head_weights_;  // of a head that is not trained, where weights are kept
  RoundedWeight rounded_head_;         // or this, in bf16
  AlignedBuffer<uint16_t> room_;       // for its inputs
  std::vector<AlignedBuffer<float>>
      stream_;                               // [blocks + 1], each [tokens, hidden]: what goes into each block
  std::vector<BlockActivations> kept_;       // of each block, or of one
  AlignedBuffer<float> normed_;              // [tokens, hidden], what the head reads
  AlignedBuffer<float> gradient_;            // [tokens, hidden], of the residual stream
  AlignedBuffer<float> dx_;                  // [tokens, hidden], of what the head reads
  AlignedBuffer<float> logits_, panel_out_;  // [head_rows_, vocab]; [threads][head_rows_, hidden]
};

}  // namespace nibble
