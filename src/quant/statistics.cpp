#include "quant/statistics.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "quant/gram.h"
#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kSampleRows = 256;

class ProcessorSums : public InputSums {
 public:
  ProcessorSums(int64_t k, int64_t n, bool gram, ThreadPool& pool)
      : pool_(pool), k_(k), n_(n), magnitudes_(static_cast<size_t>(k)) {
    if (gram) gram_.emplace(k, pool);
  }

  void add(const Observed& rows, int64_t count) override {
    if (gram_) gram_->add(rows.x, count);
    if (rows.reference) {
      drift_.resize(static_cast<size_t>(k_ * k_));
      difference_.resize(static_cast<size_t>(count * k_));
      for (size_t i = 0; i < difference_.size(); ++i) difference_[i] = rows.reference[i] - rows.x[i];
      add_outer(difference_.data(), k_, rows.x, k_, count, drift_, pool_);
    }
    if (rows.target) {
      pull_.resize(static_cast<size_t>(n_ * k_));
      add_outer(rows.target, n_, rows.x, k_, count, pull_, pool_);
    }
    pool_.parallel_for(static_cast<size_t>(k_), 64, [&](size_t begin, size_t end, int) {
      std::vector<float> sum(end - begin);
      for (int64_t r = 0; r < count; ++r) {
        const float* row = rows.x + static_cast<size_t>(r * k_) + begin;
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::fabs(row[i]);
      }
      for (size_t i = 0; i < sum.size(); ++i) magnitudes_[begin + i] += double{sum[i]};
    });
  }

  void keep(const float* from, int64_t count, std::vector<float>& to) override {
    to.insert(to.end(), from, from + count);
  }

  void finish(InputStatistics& to, std::vector<double>& magnitudes) override {
    if (gram_) to.gram = gram_->take();
    to.drift = std::move(drift_);
    to.pull = std::move(pull_);
    magnitudes = std::move(magnitudes_);
  }

 private:
  ThreadPool& pool_;
  int64_t k_, n_;
  std::optional<GramSum> gram_;
  std::vector<float> drift_, pull_, difference_;
  std::vector<double> magnitudes_;
};

}  // namespace

std::unique_ptr<InputSums> processor_sums(int64_t k, int64_t n, bool gram, ThreadPool& pool) {
  return std::make_unique<ProcessorSums>(k, n, gram, pool);
}

StatisticsCollector::StatisticsCollector(int64_t k, int64_t expected_tokens, std::unique_ptr<InputSums> sums,
                                         int64_t held_out_tokens, int64_t n)
    : sums_(std::move(sums)),
      n_(n),
      stride_(std::max<int64_t>(1, expected_tokens / kSampleRows)),
      held_out_stride_(std::max<int64_t>(1, held_out_tokens / kSampleRows)) {
  statistics_.k = k;
}

void StatisticsCollector::add(const Observed& rows, int64_t count) {
  InputStatistics& s = statistics_;
  sums_->add(rows, count);
  for (; next_ < s.tokens + count; next_ += stride_)
    sums_->keep(rows.x + (next_ - s.tokens) * s.k, s.k, s.sample);
  s.tokens += count;
}

void StatisticsCollector::hold_out(const Observed& rows, int64_t count) {
  InputStatistics& s = statistics_;
  const auto keep = [&](std::vector<float>& to, const float* from, int64_t r, int64_t width) {
    if (from) sums_->keep(from + r * width, width, to);
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
  std::vector<double> magnitudes;
  sums_->finish(s, magnitudes);
  for (const double sum : magnitudes) {
    const double mean = s.tokens > 0 ? sum / static_cast<double>(s.tokens) : 0;
    s.mean_abs.push_back(static_cast<float>(mean));
    s.finite = s.finite && std::isfinite(mean);
  }
  for (int64_t i = 0; !s.gram.empty() && i < s.k; ++i)
    s.finite = s.finite && std::isfinite(s.gram[static_cast<size_t>(i * s.k + i)]);
  const auto finite = [](float v) { return std::isfinite(v); };
  s.finite = s.finite && std::all_of(s.held_out.begin(), s.held_out.end(), finite);
  return std::move(s);
}

}  // namespace nibble
