// Gathers what one linear input does over the calibration text.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/method.h"

namespace nibble {

class StatisticsCollector {
 public:
  // expected_tokens: how many rows will come; 256 of them, evenly spread, are kept as a sample.
  StatisticsCollector(int64_t k, int64_t expected_tokens);
  void add(const float* x, int64_t rows);  // [rows, k]
  InputStatistics finish();                // the Gram matrix whole

 private:
  InputStatistics statistics_;
  std::vector<double> sum_abs_;
  int64_t stride_, next_ = 0;
};

}  // namespace nibble
