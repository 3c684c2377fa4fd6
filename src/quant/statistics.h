// Gathers what one linear input does over the calibration text.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quant/compute.h"

namespace nibble {

class StatisticsCollector {
 public:
  // expected_tokens: how many rows will come, and how many will be held out; 256 of each, evenly
  // spread, are kept. n: width of the targets, 0: none come.
  StatisticsCollector(int64_t k, int64_t expected_tokens, std::unique_ptr<InputSums> sums,
                      int64_t held_out_tokens, int64_t n);
  // Of rows in the processor's memory; gram: whether the Gram matrix is wanted.
  StatisticsCollector(int64_t k, int64_t expected_tokens, ThreadPool& pool, bool gram = true,
                      int64_t held_out_tokens = 0, int64_t n = 0)
      : StatisticsCollector(k, expected_tokens, processor_sums(k, n, gram, pool), held_out_tokens, n) {}
  void add(const Observed& rows, int64_t count);
  void add(const float* x, int64_t count) { add(Observed{x}, count); }
  void hold_out(const Observed& rows, int64_t count);
  InputStatistics finish();  // the Gram matrix whole

 private:
  std::unique_ptr<InputSums> sums_;
  InputStatistics statistics_;
  int64_t n_, stride_, next_ = 0, held_out_stride_, held_out_ = 0, next_held_out_ = 0;
};

}  // namespace nibble
