// From hidden states to what is asked of their logits: the logits themselves live a few rows at a time.
#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "model/forward_pass.h"

namespace nibble {

class Session;

class LogitReader {
 public:
  // scores[i] answers questions[i], which ascend by row. NaN among a row's logits makes its scores NaN.
  void score(Session& session, std::span<const TokenQuestion> questions, std::span<TokenScore> scores);

  // best[i]: the most likely token after rows[i] (ascending), the lowest id of equals; 0 where all are NaN.
  void argmax(Session& session, std::span<const size_t> rows, std::span<int32_t> best);

  uint64_t bytes() const { return hidden_.bytes() + logits_.bytes(); }

 private:
  // to_go_on: as Session::logits takes it. visit(index into rows, logits [vocab], which it may overwrite), on
  // the threads of the pool.
  template <typename Visit>
  void for_each_row(Session& session, std::span<const size_t> rows, bool to_go_on, Visit visit);

  AlignedBuffer<float> hidden_, logits_;
};

}  // namespace nibble
