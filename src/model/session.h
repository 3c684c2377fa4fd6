// The forward pass on the processor; calibration uses its stages one by one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/forward_pass.h"
#include "model/kv_cache.h"
#include "model/linears.h"
#include "model/logit_reader.h"
#include "model/model.h"

namespace nibble {

// Activations, cache and scratch for one model, allocated once; the calls below allocate nothing.
// One session serves one thread at a time.
class Session : public ForwardPass {
 public:
  Session(std::shared_ptr<const Model> model, const SessionOptions& options, ThreadPool& pool);

  ThreadPool& pool() { return pool_; }
  const KernelTable& kernels() const { return kernels_; }
  uint64_t cache_bytes() const override { return cache_.bytes(); }
  uint64_t workspace_bytes() const override;

  // hidden() then holds the final norm's output of every token.
  void forward(const Batch& batch) override;
  void row_logits(size_t first, size_t count, float* out) override;
  void score(std::span<const TokenQuestion> questions, std::span<TokenScore> scores) override;
  void argmax(std::span<const size_t> rows, std::span<int32_t> best) override;
  void copy_cache(int from, int to, int count) override { cache_.copy(from, to, count); }
  const float* hidden() const { return normed_.data(); }  // [tokens, hidden_size]

  // out[rows, vocab] = head of `rows` rows of [.., hidden_size]; to_go_on: for the token that the model finds
  // there (Batch).
  void logits(const float* hidden_rows, int64_t rows, float* out, bool to_go_on = false);

  // The stages of a block, for calibration. h [tokens, hidden] is the residual stream.
  void check(const Batch& batch) const { check_batch(batch); }
  void embed(const Batch& batch, float* h);
  void norm(const Norm& norm, const float* x, float* y, int64_t rows);
  // a [tokens, n_heads·head_dim]: attention's output before the o projection.
  void attention(const Block& block, int layer, const Batch& batch, const float* x, float* a);
  // y [rows, intermediate]: the input of the down projection.
  void mlp_inner(const Block& block, const float* x, float* y, int64_t rows);
  void linear(const Linear& linear, const float* x, float* y, int64_t rows);
  void add(float* y, const float* x, int64_t n);  // y += x
  void block(const Block& block, int layer, const Batch& batch, float* h);

 private:
  void find_positions(const Batch& batch);
  void rotate(float* x, int heads, int64_t token, float scale);  // a token's heads
  void attend(int layer, const Batch& batch, float* out);

  ThreadPool& pool_;
  const KernelTable& kernels_;
  KvCache cache_;
  Linears linears_;
  AlignedBuffer<float> rope_;  // [context][rope_dims/2][cos, sin]
  AlignedBuffer<float> residual_, normed_, q_, k_, v_, attended_, gate_, up_;
  AlignedBuffer<float> thread_scratch_;  // [threads][scratch_per_thread_], of attention
  size_t scratch_per_thread_ = 0;
  bool attends_by_tiles_;
  struct Position {
    int slot, at;
  };
  std::vector<Position> positions_;  // of the batch's tokens
  struct Work {
    int segment, kv_head, first, count;  // queries [first, first+count) of the segment
    int64_t token;                       // index of the segment's first token in the batch
  };
  std::vector<Work> work_;
  LogitReader reader_;
};

}  // namespace nibble
