// Gathers what one linear input does over the calibration text.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quant/gram.h"
#include "quant/method.h"

namespace nibble {

// What a stage gives for some tokens.
struct Observed {
  const float* x;                    // [rows, k]: the linears' input
  const float* reference = nullptr;  // [rows, k]: the same in the unquantized stream
  const float* target = nullptr;     // [rows, n]: what the linear's output should be
};

class StatisticsCollector {
 public:
  // expected_tokens: how many rows will come, and how many will be held out; 256 of each, evenly
  // spread, are kept. gram: whether the Gram matrix is wanted. n: width of the targets, 0: none come.
  StatisticsCollector(int64_t k, int64_t expected_tokens, ThreadPool& pool, bool gram = true,
                      int64_t held_out_tokens = 0, int64_t n = 0);
  void add(const Observed& rows, int64_t count);
  void add(const float* x, int64_t count) { add(Observed{x}, count); }
  void hold_out(const Observed& rows, int64_t count);
  InputStatistics finish();  // the Gram matrix whole

 private:
  ThreadPool& pool_;
  InputStatistics statistics_;
  std::optional<GramSum> gram_;
  std::vector<double> sum_abs_;
  std::vector<float> difference_;
  int64_t n_, stride_, next_ = 0, held_out_stride_, held_out_ = 0, next_held_out_ = 0;
};

}  // namespace nibble
