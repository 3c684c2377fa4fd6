// The next token from a row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"

namespace nibble {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token
  double top_p = 1;        // only the likeliest tokens that together reach this probability (Holtzman 2020)
  uint64_t seed = 0;
  void validate() const;  // throws UsageError
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // The lowest id wins among equals at temperature 0. NaN counts as impossible.
  int32_t next(std::span<const float> logits);

 private:
  SamplingOptions options_;
  Random random_;
  std::vector<std::pair<double, int32_t>> weights_;
};

}  // namespace nibble
