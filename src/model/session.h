// The forward pass: one implementation for evaluation, generation, calibration and benchmarks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/kv_cache.h"
#include "model/linears.h"
#include "model/model.h"

namespace nibble {

// Consecutive tokens of one sequence: they take positions start … start+count−1 of its cache slot
// and see everything before them there.
struct Segment {
  int slot = 0;
  int start = 0;
  int count = 0;
};

// Tokens of several sequences, in the order of the segments.
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<Segment> segments;
  void clear() {
    tokens.clear();
    segments.clear();
  }
  void add(int slot, int start, std::span<const int32_t> ids);
};

struct SessionOptions {
  int slots = 1;           // sequences whose cache is kept at a time
  int context = 512;       // tokens a slot
  int batch_tokens = 512;  // most tokens of one forward pass
  Precision precision = {};
  bool expect_packed = false;  // linears may be packed later, as calibration does
};

// Activations, cache and scratch for one model, allocated once; the calls below allocate nothing.
// One session serves one thread at a time.
class Session {
 public:
  Session(std::shared_ptr<const Model> model, const SessionOptions& options, ThreadPool& pool);

  const Model& model() const { return *model_; }
  const SessionOptions& options() const { return options_; }
  ThreadPool& pool() { return pool_; }
  const KernelTable& kernels() const { return kernels_; }
  uint64_t cache_bytes() const { return cache_.bytes(); }
  uint64_t workspace_bytes() const;

  // Slot `to` gets the keys and values of the first `count` positions of slot `from`.
  void copy_cache(int from, int to, int count) { cache_.copy(from, to, count); }

  // Runs the batch; hidden() then holds the final norm's output of every token. Throws Error for
  // a token outside the vocabulary or a position outside the slot.
  void forward(const Batch& batch);
  const float* hidden() const { return normed_.data(); }  // [tokens, hidden_size]

  // out[rows, vocab] = head of `rows` rows of [.., hidden_size].
  void logits(const float* hidden_rows, int64_t rows, float* out);
  // Rows of logits that fit a scratch of a few megabytes, whatever the vocabulary.
  int64_t logit_rows_at_once() const;

  // The stages of a block, for calibration. h [tokens, hidden] is the residual stream.
  void check(const Batch& batch) const;
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
  void rotate(float* x, int heads, const Batch& batch, float scale);
  void attend(int layer, const Batch& batch, float* out);

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
  ThreadPool& pool_;
  const KernelTable& kernels_;
  KvCache cache_;
  Linears linears_;
  AlignedBuffer<float> rope_;  // [context][rope_dims/2][cos, sin]
  AlignedBuffer<float> residual_, normed_, q_, k_, v_, attended_, gate_, up_;
  AlignedBuffer<float> thread_scratch_;  // [threads][scratch_per_thread_], of attention
  size_t scratch_per_thread_ = 0;
  struct Work {
    int segment, kv_head, first, count;  // queries [first, first+count) of the segment
    int64_t token;                       // index of the segment's first token in the batch
  };
  std::vector<Work> work_;
};

}  // namespace nibble
