// Speed and memory of a variant, out of what its cells stored.
#pragma once

#include <optional>
#include <string_view>

#include "report/study_view.h"

namespace nibble::report {

// Peak memory that no part accounts for; 0 where the parts exceed it (shared or unmapped pages).
double other_bytes(const MemoryBytes& memory);

// The memory of the bench process; else null.
const MemoryBytes* bench_memory(const VariantView& variant);

// One test of `bench -o json`: prefix "pp" or "tg", smallest batch; null when not measured.
const Json* bench_test(const VariantView& variant, std::string_view prefix);

// {mean, sd} of a bench test's tokens/s.
struct Rate {
  double mean = 0, sd = 0;
};
std::optional<Rate> bench_rate(const VariantView& variant, std::string_view prefix);

// How far a variant lies from its baseline, of its cell "kl"; null when not measured.
struct Distance {
  double kl = 0, kl_low = 0, kl_high = 0;  // nats, mean with its 95 % interval
  double top1_agreement = 0;               // share
  int64_t tokens = 0;                      // positions scored
};
std::optional<Distance> distance_of(const VariantView& variant);

}  // namespace nibble::report
