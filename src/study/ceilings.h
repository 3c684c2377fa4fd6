// What this machine can do at most: what the runtime is measured against.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/thread_pool.h"

namespace nibble {

// Of the pool's threads together.
struct Ceilings {
  // From a buffer of at least 256 MB and four times the last-level cache; the best of several passes. None
  // when so much memory is not free.
  std::optional<double> read_bytes_per_s;
  // Operations (two a product) of the instructions that the kernels in use multiply with, out of registers.
  double int8_ops_per_s = 0;
  double dense_ops_per_s = 0;
  std::string_view dense_type;  // "bfloat16", "float32"
};

// Takes about half a second, and memory: take peak_rss_bytes() before.
Ceilings measure_ceilings(ThreadPool& pool);

uint64_t last_level_cache_bytes();  // 0 when unknown

}  // namespace nibble
