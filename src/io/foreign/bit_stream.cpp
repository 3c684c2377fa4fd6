#include "io/foreign/bit_stream.h"

namespace nibble {

void unpack_bits(const uint32_t* words, int bits, int64_t count, uint8_t* out) {
  const uint32_t mask = (1u << bits) - 1;
  uint64_t held = 0;
  int available = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (available < bits) {
      held |= uint64_t{*words++} << available;
      available += 32;
    }
    out[i] = static_cast<uint8_t>(held & mask);
    held >>= bits;
    available -= bits;
  }
}

void pack_bits(const uint8_t* codes, int bits, int64_t count, uint32_t* words) {
  uint64_t held = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    held |= uint64_t{codes[i]} << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = static_cast<uint32_t>(held);
      held >>= 32;
      filled -= 32;
    }
  }
  if (filled > 0) *words = static_cast<uint32_t>(held);
}

}  // namespace nibble
