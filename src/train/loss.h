// What a model is trained on: from rows of logits to a loss and its gradient.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "model/forward_pass.h"

namespace nibble {

class Loss {
 public:
  virtual ~Loss() = default;
  // Before the rows of a batch. Those of its tokens that count, in their order: no others need logits.
  virtual std::vector<int64_t> begin(const Batch& batch) = 0;
  // What the rows first … first + count − 1 of those that count add to the loss; logits[count, vocab] become
  // ∂loss/∂logits.
  virtual double rows(int64_t first, int64_t count, float* logits) = 0;
};

// Mean of −ln p(next token) over the rows that count.
class CrossEntropy : public Loss {
 public:
  // answers[row]: the token that comes after it, −1 where the row does not count.
  CrossEntropy(int64_t vocab, ThreadPool& pool) : vocab_(vocab), pool_(pool) {}
  // Of the batch to come. total: rows that the mean is over, where more batches follow; 0: those that count.
  // Throws Error where none does.
  void set(std::vector<int32_t> answers, int64_t total = 0);
  // Each token's next in its segment, wherever there is one.
  static std::vector<int32_t> next_tokens(const Batch& batch);

  std::vector<int64_t> begin(const Batch& batch) override;
  double rows(int64_t first, int64_t count, float* logits) override;

 private:
  int64_t vocab_;
  ThreadPool& pool_;
  std::vector<int32_t> answers_;  // of the batch's tokens
  std::vector<int32_t> wanted_;   // of the rows that count
  int64_t total_ = 0;
};

// Mean of KL(teacher ‖ model) in nats over all rows, of distributions at `temperature`; its gradient is
// multiplied by temperature² (Hinton et al. 2015), so that it keeps its size.
class Divergence : public Loss {
 public:
  Divergence(ForwardPass& teacher, float temperature, ThreadPool& pool);

  std::vector<int64_t> begin(const Batch& batch) override;  // runs the teacher
  double rows(int64_t first, int64_t count, float* logits) override;

 private:
  ForwardPass& teacher_;
  float temperature_;
  ThreadPool& pool_;
  int64_t tokens_ = 0;
  AlignedBuffer<float> logits_;   // [rows, vocab] of the teacher
  AlignedBuffer<float> scratch_;  // [threads, vocab]
};

}  // namespace nibble
