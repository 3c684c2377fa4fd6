#include "quant/statistics.h"

#include <algorithm>
#include <cmath>

#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kSampleRows = 256;

}  // namespace

StatisticsCollector::StatisticsCollector(int64_t k, int64_t expected_tokens, ThreadPool& pool)
    : pool_(pool),
      sum_abs_(static_cast<size_t>(k)),
      stride_(std::max<int64_t>(1, expected_tokens / kSampleRows)) {
  statistics_.k = k;
  statistics_.gram.resize(static_cast<size_t>(k * k));
}

void StatisticsCollector::add(const float* x, int64_t rows) {
  const int64_t k = statistics_.k;
  add_gram(x, rows, k, statistics_.gram, pool_);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * k;
    for (int64_t i = 0; i < k; ++i) sum_abs_[static_cast<size_t>(i)] += std::fabs(double{row[i]});
    if (statistics_.tokens + r == next_) {
      statistics_.sample.insert(statistics_.sample.end(), row, row + k);
      next_ += stride_;
    }
  }
  statistics_.tokens += rows;
}

InputStatistics StatisticsCollector::finish() {
  mirror_upper(statistics_.gram, statistics_.k);
  for (const double s : sum_abs_) {
    const double mean = statistics_.tokens > 0 ? s / static_cast<double>(statistics_.tokens) : 0;
    statistics_.mean_abs.push_back(static_cast<float>(mean));
    statistics_.finite = statistics_.finite && std::isfinite(mean);
  }
  for (int64_t i = 0; i < statistics_.k; ++i)
    statistics_.finite =
        statistics_.finite && std::isfinite(statistics_.gram[static_cast<size_t>(i * statistics_.k + i)]);
  return std::move(statistics_);
}

}  // namespace nibble
