// What runs batches of tokens through a model: evaluation, generation and benchmarks know only this, so that
// the same code measures the processor (model/session.h) and a GPU (model/cuda/session.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/model.h"
#include "model/precision.h"

namespace nibble {

// Consecutive tokens of one sequence: they take positions start … start+count−1 of its cache slot
// and see everything before them there.
struct Segment {
  int slot = 0;
  int start = 0;
  int count = 0;
};

// Tokens of several sequences, in the order of the segments: first those that were found by the model itself,
// one a sequence, then those of texts. The two may be computed in ways that differ in their rounding, each of
// which does not depend on what else the batch holds.
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<Segment> segments;
  int found = 0;  // tokens of the first kind
  void clear() {
    tokens.clear();
    segments.clear();
    found = 0;
  }
  void add(int slot, int start, std::span<const int32_t> ids);
  void add_found(int slot, int start, int32_t id);  // before the first add
};

struct SessionOptions {
  int slots = 1;           // sequences whose cache is kept at a time
  int context = 512;       // tokens a slot
  int batch_tokens = 512;  // most tokens of one forward pass
  Precision precision = {};
  bool expect_packed = false;  // linears may be packed later, as calibration does
};

// ln p(token) after row `row` of the batch that was run last.
struct TokenQuestion {
  size_t row = 0;
  int32_t token = 0;
};
struct TokenScore {
  double loglik = 0;
  bool is_greedy = false;  // no token has a higher logit, none of a lower id the same
};

// A sequence that goes on: `token` is fed at `position` of its slot.
struct Continuation {
  int slot = 0, position = 0;
  int32_t token = 0;
};

class ForwardPass {
 public:
  virtual ~ForwardPass() = default;
  ForwardPass(const ForwardPass&) = delete;
  ForwardPass& operator=(const ForwardPass&) = delete;

  const Model& model() const { return *model_; }
  const SessionOptions& options() const { return options_; }
  virtual uint64_t cache_bytes() const = 0;
  virtual uint64_t workspace_bytes() const = 0;

  // Runs the batch. Throws Error for a token outside the vocabulary or a position outside the slot. What
  // the calls below are asked about is the batch that was run last.
  virtual void forward(const Batch& batch) = 0;
  // Slot `to` gets the keys and values of the first `count` positions of slot `from`.
  virtual void copy_cache(int from, int to, int count) = 0;
  // out[count, vocab]: the logits after rows first … first + count − 1; at most logit_rows_at_once().
  virtual void row_logits(size_t first, size_t count, float* out) = 0;
  // Rows of logits that fit a scratch of a few megabytes, whatever the vocabulary.
  int64_t logit_rows_at_once() const;
  // scores[i] answers questions[i], which ascend by row. NaN among a row's logits makes its scores NaN.
  virtual void score(std::span<const TokenQuestion> questions, std::span<TokenScore> scores) = 0;
  // best[i]: the most likely token after rows[i] (ascending), the lowest id of equals; 0 where all are NaN.
  virtual void argmax(std::span<const size_t> rows, std::span<int32_t> best) = 0;

  // `steps` times: feeds every sequence its token, which is from then on the likeliest one.
  // out[steps, sequences]: the tokens found; step_ms[steps]: what each step took, unless null. The slots
  // differ, and there are at most batch_tokens of them.
  virtual void greedy(std::span<const Continuation> sequences, int steps, int32_t* out, double* step_ms);

 protected:
  // Throws Error when the options make no sense for the model.
  ForwardPass(std::shared_ptr<const Model> model, const SessionOptions& options);
  void check_batch(const Batch& batch) const;

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
};

// Where it computes: "cpu/avx512", "cuda/NVIDIA H100 80GB HBM3". Throws Error where there is no such device.
std::string device_name(Device device);

// Tokens of one forward pass that serve a device well where a caller has no wish of its own.
int default_batch_tokens(Device device);

// On the device that options.precision names. Throws Error where that device is not there.
std::unique_ptr<ForwardPass> open_forward_pass(std::shared_ptr<const Model> model,
                                               const SessionOptions& options, ThreadPool& pool);

}  // namespace nibble
