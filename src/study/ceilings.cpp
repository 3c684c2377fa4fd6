#include "study/ceilings.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>

#include "base/aligned_buffer.h"
#include "base/memory_usage.h"
#include "base/stopwatch.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr size_t kPlace = 512, kPlaces = 4;  // 4 KB each

// Four places side by side, the next four asked for meanwhile: a stream alone leaves memory idle. Eight sums
// in parallel, so that the loads and not the additions are the limit. n: a multiple of 8.
uint64_t sum_of(const uint64_t* data, size_t n) {
  uint64_t sums[8] = {};
  const auto add = [&](const uint64_t* line) {
    for (size_t j = 0; j < 8; ++j) sums[j] += line[j];
  };
  size_t done = 0;
  for (; done + kPlaces * kPlace <= n; done += kPlaces * kPlace) {
    for (size_t i = 0; i < kPlace; i += 8) {
      for (size_t place = 0; place < kPlaces; ++place) {
        const uint64_t* line = data + done + place * kPlace + i;
        __builtin_prefetch(line + kPlaces * kPlace, 0, 2);
        add(line);
      }
    }
  }
  for (; done + 8 <= n; done += 8) add(data + done);
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

std::optional<double> read_bandwidth(ThreadPool& pool) {
  constexpr int kPasses = 5;
  const uint64_t bytes = std::max<uint64_t>(uint64_t{256} << 20, 4 * last_level_cache_bytes());
  if (available_memory_bytes() < 2 * bytes) return std::nullopt;
  AlignedBuffer<uint64_t> buffer(bytes / sizeof(uint64_t));
  // Pages of zeros that were never written to might all be one page.
  pool.parallel_for(buffer.size(), 512, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) buffer[i] = i;
  });
  double best = 0;
  std::atomic<uint64_t> sink{0};
  for (int pass = 0; pass < kPasses; ++pass) {
    const Stopwatch watch;
    pool.parallel_for(buffer.size(), 512, [&](size_t begin, size_t end, int) {
      sink += sum_of(buffer.data() + begin, end - begin);
    });
    best = std::max(best, static_cast<double>(buffer.bytes()) / watch.seconds());
  }
  NIBBLE_CHECK(sink.load() != 0);  // the sums are used, so they are computed
  return best;
}

// The best of several runs of at least 10 ms.
double operations_per_s(ThreadPool& pool, double (*peak)(int64_t)) {
  constexpr int kPasses = 5;
  int64_t rounds = 1000;
  double seconds = 0;
  const auto run = [&] {
    std::atomic<double> operations{0};
    const Stopwatch watch;
    pool.run([&](int) { operations += peak(rounds); });
    seconds = watch.seconds();
    return operations / seconds;
  };
  for (run(); seconds < 0.01; run()) rounds *= 2;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) best = std::max(best, run());
  return best;
}

}  // namespace

// What sysfs says of processor 0: virtual machines pass the sum over a whole socket to sysconf().
uint64_t last_level_cache_bytes() {
  for (int index = 9; index >= 0; --index) {
    std::ifstream size(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    uint64_t value = 0;
    char unit = 'K';
    if (size >> value && value > 0) return value << (size >> unit && unit == 'M' ? 20 : 10);
  }
  for (const int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    if (const long bytes = ::sysconf(level); bytes > 0) return static_cast<uint64_t>(bytes);
  }
  return 0;
}

Ceilings measure_ceilings(ThreadPool& pool) {
  return {.read_bytes_per_s = read_bandwidth(pool),
          .int8_ops_per_s = operations_per_s(pool, kernels().peak_i8),
          .dense_ops_per_s = operations_per_s(pool, kernels().peak_dense),
          .dense_type = kernels().bf16_pays ? "bfloat16" : "float32"};
}

}  // namespace nibble
