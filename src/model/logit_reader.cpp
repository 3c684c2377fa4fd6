#include "model/logit_reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "model/session.h"

namespace nibble {
namespace {

// ln Σ exp(x): float32 exponentials, summed in float64 over short stretches. Overwrites x.
double log_sum_exp(const KernelTable& kernels, float* x, int64_t n, float max) {
  constexpr int64_t kStretch = 512;
  double sum = 0;
  for (int64_t i = 0; i < n; i += kStretch)
    sum += double{kernels.exp_sum(x + i, std::min(kStretch, n - i), max)};
  return double{max} + std::log(sum);
}

bool has_nan(const float* x, int64_t n) {
  bool found = false;
  for (int64_t i = 0; i < n; ++i) found |= x[i] != x[i];
  return found;
}

}  // namespace

template <typename Visit>
void LogitReader::for_each_row(Session& session, std::span<const size_t> rows, bool to_go_on, Visit visit) {
  const size_t hidden = static_cast<size_t>(session.model().config.hidden_size);
  const size_t vocab = static_cast<size_t>(session.model().config.vocab_size);
  const size_t at_once = static_cast<size_t>(session.logit_rows_at_once());
  const size_t needed = std::min(at_once, rows.size());
  if (logits_.size() < needed * vocab) logits_ = AlignedBuffer<float>(needed * vocab);
  if (hidden_.size() < needed * hidden) hidden_ = AlignedBuffer<float>(needed * hidden);
  for (size_t begin = 0; begin < rows.size(); begin += at_once) {
    const size_t count = std::min(at_once, rows.size() - begin);
    for (size_t i = 0; i < count; ++i)
      std::memcpy(hidden_.data() + i * hidden, session.hidden() + rows[begin + i] * hidden,
                  hidden * sizeof(float));
    session.logits(hidden_.data(), static_cast<int64_t>(count), logits_.data(), to_go_on);
    session.pool().parallel_for(count, 1, [&](size_t first, size_t last, int) {
      for (size_t i = first; i < last; ++i) visit(begin + i, logits_.data() + i * vocab);
    });
  }
}

void LogitReader::score(Session& session, std::span<const TokenQuestion> questions,
                        std::span<TokenScore> scores) {
  NIBBLE_CHECK(questions.size() == scores.size());
  std::vector<size_t> rows, first_question;  // the distinct rows, and where the questions of each begin
  for (size_t i = 0; i < questions.size(); ++i) {
    NIBBLE_CHECK(i == 0 || questions[i].row >= questions[i - 1].row);
    if (!rows.empty() && rows.back() == questions[i].row) continue;
    rows.push_back(questions[i].row);
    first_question.push_back(i);
  }
  first_question.push_back(questions.size());
  const KernelTable& kernels = session.kernels();
  const int64_t vocab = session.model().config.vocab_size;
  for_each_row(session, rows, false, [&](size_t row, float* logits) {
    const bool broken = has_nan(logits, vocab);
    const float max = kernels.max(logits, vocab);
    for (size_t i = first_question[row]; i < first_question[row + 1]; ++i) {
      const int32_t token = questions[i].token;
      NIBBLE_CHECK(token >= 0 && token < vocab);
      scores[i].loglik = double{logits[token]};
      scores[i].is_greedy = !broken && std::find(logits, logits + token + 1, max) == logits + token;
    }
    const double total = log_sum_exp(kernels, logits, vocab, max);
    for (size_t i = first_question[row]; i < first_question[row + 1]; ++i)
      scores[i].loglik = broken ? std::numeric_limits<double>::quiet_NaN() : scores[i].loglik - total;
  });
}

void LogitReader::argmax(Session& session, std::span<const size_t> rows, std::span<int32_t> best) {
  NIBBLE_CHECK(rows.size() == best.size());
  const int64_t vocab = session.model().config.vocab_size;
  for_each_row(session, rows, true, [&](size_t row, float* logits) {
    float* end = logits + vocab;
    const float* top = std::find(logits, end, session.kernels().max(logits, vocab));
    best[row] = top == end ? 0 : static_cast<int32_t>(top - logits);
  });
}

}  // namespace nibble
