// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// The hash of everything given to update(), in pieces of any size.
class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::string hex() const;  // of the bytes so far, 64 lower-case digits; update() may follow

 private:
  using State = std::array<uint32_t, 8>;
  static void compress(State& state, const std::byte* block);

  State state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_ = {};
  uint64_t size_ = 0;  // bytes so far
};

std::string sha256_of(std::string_view text);  // 64 digits

}  // namespace nibble
