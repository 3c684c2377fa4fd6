#include "quant/statistics.h"

#include <algorithm>
#include <cmath>

#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kSampleRows = 256;

}  // namespace

StatisticsCollector::StatisticsCollector(int64_t k, int64_t expected_tokens, ThreadPool& pool, bool gram,
                                         int64_t held_out_tokens, int64_t n)
    : pool_(pool),
      sum_abs_(static_cast<size_t>(k)),
      n_(n),
      stride_(std::max<int64_t>(1, expected_tokens / kSampleRows)),
      held_out_stride_(std::max<int64_t>(1, held_out_tokens / kSampleRows)) {
  statistics_.k = k;
  if (gram) gram_.emplace(k, pool);
}

void StatisticsCollector::add(const Observed& rows, int64_t count) {
  InputStatistics& s = statistics_;
  const int64_t k = s.k;
  if (gram_) gram_->add(rows.x, count);
  if (rows.reference) {
    s.drift.resize(static_cast<size_t>(k * k));
    difference_.resize(static_cast<size_t>(count * k));
    for (size_t i = 0; i < difference_.size(); ++i) difference_[i] = rows.reference[i] - rows.x[i];
    add_outer(difference_.data(), k, rows.x, k, count, s.drift, pool_);
  }
  if (rows.target) {
    s.pull.resize(static_cast<size_t>(n_ * k));
    add_outer(rows.target, n_, rows.x, k, count, s.pull, pool_);
  }
  pool_.parallel_for(static_cast<size_t>(k), 64, [&](size_t begin, size_t end, int) {
    std::vector<float> sum(end - begin);
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.x + r * k + begin;
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::fabs(row[i]);
    }
    for (size_t i = 0; i < sum.size(); ++i) sum_abs_[begin + i] += double{sum[i]};
  });
  for (; next_ < s.tokens + count; next_ += stride_) {
    const float* row = rows.x + (next_ - s.tokens) * k;
    s.sample.insert(s.sample.end(), row, row + k);
  }
  s.tokens += count;
}

void StatisticsCollector::hold_out(const Observed& rows, int64_t count) {
  InputStatistics& s = statistics_;
  const auto keep = [&](std::vector<float>& to, const float* from, int64_t r, int64_t width) {
    if (from) to.insert(to.end(), from + r * width, from + (r + 1) * width);
  };
  for (int64_t r = 0; r < count; ++r, ++held_out_) {
    if (held_out_ != next_held_out_) continue;
    keep(s.held_out, rows.x, r, s.k);
    keep(s.held_out_reference, rows.reference, r, s.k);
    keep(s.held_out_target, rows.target, r, n_);
    next_held_out_ += held_out_stride_;
  }
}

InputStatistics StatisticsCollector::finish() {
  InputStatistics& s = statistics_;
  if (gram_) s.gram = gram_->take();
  for (const double sum : sum_abs_) {
    const double mean = s.tokens > 0 ? sum / static_cast<double>(s.tokens) : 0;
    s.mean_abs.push_back(static_cast<float>(mean));
    s.finite = s.finite && std::isfinite(mean);
  }
  for (int64_t i = 0; gram_ && i < s.k; ++i)
    s.finite = s.finite && std::isfinite(s.gram[static_cast<size_t>(i * s.k + i)]);
  const auto finite = [](float v) { return std::isfinite(v); };
  s.finite = s.finite && std::all_of(s.held_out.begin(), s.held_out.end(), finite);
  return std::move(s);
}

}  // namespace nibble
