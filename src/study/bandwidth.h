// How fast this machine reads memory: what decoding is measured against.
#pragma once

#include <cstdint>
#include <optional>

#include "base/thread_pool.h"

namespace nibble {

// Bytes per second that the pool's threads together read from a buffer of at least 256 MB and four
// times the last-level cache; the best of several passes. None when so much memory is not free.
// Allocates the buffer: take peak_rss_bytes() before.
std::optional<double> read_bandwidth(ThreadPool& pool);

uint64_t last_level_cache_bytes();  // 0 when unknown

}  // namespace nibble
