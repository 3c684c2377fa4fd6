// Codes packed one after another into little-endian 32-bit words from the lowest bit on; a code may cross
// into the next word (3 and 6 bits). GPTQ, AWQ and compressed-tensors all pack so, along one dimension or
// another.
#pragma once

#include <cstdint>

namespace nibble {

constexpr int64_t packed_words(int64_t count, int bits) { return (count * bits + 31) / 32; }

// out[count]; words[packed_words(count, bits)]; bits 1 … 8.
void unpack_bits(const uint32_t* words, int bits, int64_t count, uint8_t* out);
// Writes every word; the bits past the last code are 0.
void pack_bits(const uint8_t* codes, int bits, int64_t count, uint32_t* words);

}  // namespace nibble
