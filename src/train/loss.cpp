#include "train/loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops.h"

namespace nibble {
namespace {

// Σ weights[i]·(a[i] − b[i]), pieces of 1,024 in eight float32 sums, those in float64.
double weighted_difference(const float* weights, const float* a, const float* b, int64_t n) {
  constexpr int64_t kPiece = 1024;
  constexpr int kLanes = 8;
  double total = 0;
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t end = std::min(n, start + kPiece);
    float sums[kLanes] = {};
    int64_t i = start;
    for (; i + kLanes <= end; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) sums[j] += weights[i + j] * (a[i + j] - b[i + j]);
    }
    for (int j = 0; i < end; ++i, ++j) sums[j] += weights[i] * (a[i] - b[i]);
    for (const float s : sums) total += double{s};
  }
  return total;
}

}  // namespace

std::vector<int32_t> CrossEntropy::next_tokens(const Batch& batch) {
  std::vector<int32_t> answers(batch.tokens.size(), -1);
  size_t token = 0;
  for (const Segment& s : batch.segments) {
    for (int i = 0; i < s.count; ++i, ++token) {
      if (i + 1 < s.count) answers[token] = batch.tokens[token + 1];
    }
  }
  return answers;
}

void CrossEntropy::set(std::vector<int32_t> answers, int64_t total) {
  answers_ = std::move(answers);
  total_ = std::count_if(answers_.begin(), answers_.end(), [](int32_t a) { return a >= 0; });
  if (total_ > 0 && total > 0) total_ = total;
  if (total_ == 0) fail("nothing to train on: no token of the batch counts");
  for (const int32_t a : answers_) {
    if (a >= vocab_) fail("token {} is outside the vocabulary of {}", a, vocab_);
  }
}

std::vector<int64_t> CrossEntropy::begin(const Batch& batch) {
  NIBBLE_CHECK(answers_.size() == batch.tokens.size());
  std::vector<int64_t> rows;
  wanted_.clear();
  for (size_t t = 0; t < answers_.size(); ++t) {
    if (answers_[t] < 0) continue;
    rows.push_back(static_cast<int64_t>(t));
    wanted_.push_back(answers_[t]);
  }
  return rows;
}

double CrossEntropy::rows(int64_t first, int64_t count, float* logits) {
  const KernelTable& k = kernels();
  std::vector<double> losses(static_cast<size_t>(count));
  const float share = 1.0f / static_cast<float>(total_);
  pool_.parallel_for(static_cast<size_t>(count), 1, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      float* row = logits + static_cast<int64_t>(r) * vocab_;
      const int32_t answer = wanted_[static_cast<size_t>(first) + r];
      const float top = k.max(row, vocab_), wanted = row[answer];
      const float sum = k.exp_sum(row, vocab_, top);
      losses[r] = (std::log(double{sum}) + double{top} - double{wanted}) / static_cast<double>(total_);
      const float factor = share / sum;
      for (int64_t i = 0; i < vocab_; ++i) row[i] *= factor;
      row[answer] -= share;
    }
  });
  double total = 0;
  for (const double l : losses) total += l;
  return total;
}

Divergence::Divergence(ForwardPass& teacher, float temperature, ThreadPool& pool)
    : teacher_(teacher), temperature_(temperature), pool_(pool) {
  if (!(temperature > 0)) fail("temperature {}: a positive number is expected", temperature);
  scratch_ = AlignedBuffer<float>(static_cast<size_t>(teacher_.model().config.vocab_size) *
                                  static_cast<size_t>(pool_.size()));
}

std::vector<int64_t> Divergence::begin(const Batch& batch) {
  tokens_ = static_cast<int64_t>(batch.tokens.size());
  teacher_.forward(batch);
  std::vector<int64_t> rows(batch.tokens.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

double Divergence::rows(int64_t first, int64_t count, float* logits) {
  const KernelTable& k = kernels();
  const int64_t vocab = teacher_.model().config.vocab_size;
  const size_t needed = static_cast<size_t>(count * vocab);
  if (logits_.size() < needed) logits_ = AlignedBuffer<float>(needed);
  teacher_.row_logits(static_cast<size_t>(first), static_cast<size_t>(count), logits_.data());
  std::vector<double> losses(static_cast<size_t>(count));
  const float inverse = 1.0f / temperature_;
  pool_.parallel_for(static_cast<size_t>(count), 1, [&](size_t begin, size_t end, int thread) {
    float* p = scratch_.data() + static_cast<int64_t>(thread) * vocab;
    for (size_t r = begin; r < end; ++r) {
      float *row = logits + static_cast<int64_t>(r) * vocab,
            *wanted = logits_.data() + static_cast<int64_t>(r) * vocab;
      if (temperature_ != 1.0f) {
        for (int64_t i = 0; i < vocab; ++i) {
          row[i] *= inverse;
          wanted[i] *= inverse;
        }
      }
      std::copy_n(wanted, vocab, p);
      const float top = k.max(row, vocab), wanted_top = k.max(p, vocab);
      const float wanted_sum = k.exp_sum(p, vocab, wanted_top);
      const double apart = weighted_difference(p, wanted, row, vocab) / double{wanted_sum};
      const float sum = k.exp_sum(row, vocab, top);
      losses[r] =
          apart - (double{wanted_top} + std::log(double{wanted_sum})) + double{top} + std::log(double{sum});
      const float share = temperature_ / static_cast<float>(tokens_);
      const float mine = share / sum, theirs = share / wanted_sum;
      for (int64_t i = 0; i < vocab; ++i) row[i] = row[i] * mine - p[i] * theirs;
    }
  });
  double total = 0;
  for (const double l : losses) total += l;
  return total / static_cast<double>(tokens_);
}

}  // namespace nibble
