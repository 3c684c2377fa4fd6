// What is asked of logits on the card: all of them, likelihoods, the likeliest token.
#include <limits>

#include "base/error.h"
#include "model/cuda/session.h"

namespace nibble {

void CudaSession::row_logits(size_t first, size_t count, float* out) {
  NIBBLE_CHECK(first + count <= static_cast<size_t>(rows_in_batch_));
  const size_t vocab = static_cast<size_t>(model_->config.vocab_size);
  for (size_t row = 0; row < count;) {
    const size_t now = std::min(count - row, static_cast<size_t>(logit_rows_));
    run_head(static_cast<int>(first + row), static_cast<int>(now), false);
    queue_.to_host(out + row * vocab, logits_.as<void>(), now * vocab * sizeof(float));
    row += now;
  }
  queue_.wait();
}

// body(begin, end): logits_ holds those of rows[begin] … rows[end − 1], the first at its start, the others as
// far behind it as the rows are apart.
template <typename Body>
void CudaSession::for_logits(std::span<const size_t> rows, const Body& body) {
  for (size_t begin = 0; begin < rows.size();) {
    NIBBLE_CHECK(rows[begin] < static_cast<size_t>(rows_in_batch_));
    size_t end = begin + 1;
    while (end < rows.size() && rows[end] - rows[begin] < static_cast<size_t>(logit_rows_) &&
           rows[end] - rows[end - 1] <= 1)
      ++end;
    run_head(static_cast<int>(rows[begin]), static_cast<int>(rows[end - 1] - rows[begin] + 1), false);
    body(begin, end);
    begin = end;
  }
}

void CudaSession::score(std::span<const TokenQuestion> questions, std::span<TokenScore> scores) {
  NIBBLE_CHECK(questions.size() == scores.size());
  std::vector<size_t> rows;
  for (const TokenQuestion& q : questions) rows.push_back(q.row);
  std::vector<cuda::Question> asked;
  std::vector<cuda::Answer> answers;
  for_logits(rows, [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += kMaxQuestions) {
      const size_t count = std::min<size_t>(kMaxQuestions, end - at);
      asked.clear();
      for (const TokenQuestion& q : questions.subspan(at, count))
        asked.push_back({static_cast<int32_t>(q.row - rows[begin]), q.token});
      answers.resize(count);
      queue_.to_device(questions_.as<void>(), asked.data(), count * sizeof(cuda::Question));
      cuda::score(queue_, logits_.as<float>(), model_->config.vocab_size, questions_.as<cuda::Question>(),
                  static_cast<int>(count), answers_.as<cuda::Answer>());
      queue_.to_host(answers.data(), answers_.as<void>(), count * sizeof(cuda::Answer));
      queue_.wait();
      for (size_t i = 0; i < count; ++i) {
        const bool broken = answers[i].is_broken != 0;
        scores[at + i] = {broken ? std::numeric_limits<double>::quiet_NaN() : answers[i].loglik,
                          answers[i].is_greedy != 0};
      }
    }
  });
}

void CudaSession::argmax(std::span<const size_t> rows, std::span<int32_t> best) {
  NIBBLE_CHECK(rows.size() == best.size());
  std::vector<int32_t> found;
  for_logits(rows, [&](size_t begin, size_t end) {
    const int count = static_cast<int>(rows[end - 1] - rows[begin] + 1);
    cuda::argmax(queue_, logits_.as<float>(), model_->config.vocab_size, count, keys_of_best_.as<uint64_t>(),
                 false);
    cuda::best_of(queue_, keys_of_best_.as<uint64_t>(), count, best_.as<int32_t>());
    found.resize(static_cast<size_t>(count));
    queue_.to_host(found.data(), best_.as<void>(), found.size() * sizeof(int32_t));
    queue_.wait();
    for (size_t i = begin; i < end; ++i) best[i] = found[rows[i] - rows[begin]];
  });
}

}  // namespace nibble
