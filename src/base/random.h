// Seeded random numbers that are the same on every platform and library version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nibble {

// SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, passes BigCrush.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // Uniform in [0, n), n ≥ 1, without modulo bias (Lemire 2019, rejection).
  uint64_t below(uint64_t n) {
    for (;;) {
      const __uint128_t product = static_cast<__uint128_t>(next()) * n;
      const auto low = static_cast<uint64_t>(product);
      // The threshold is below n: its division, the dear part, is needed for the few low parts below n only.
      if (low >= n || low >= (0 - n) % n) return static_cast<uint64_t>(product >> 64);
    }
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }  // [0, 1)
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t state_;
};

}  // namespace nibble
