// The packed layout of quantized weights: one layout on disk for every instruction set.
//
// Rows (outputs) are cut into panels of 16, inputs (k) into chunks; one load of a chunk holds
// 16 rows × the chunk's inputs, byte 4r + j belonging to row r of the panel:
//   8 bits: 4 inputs a chunk, 64 bytes; byte 4r+j = input j.
//   4 bits: 8 inputs, 64 bytes; low nibble = input j, high nibble = input 4+j.
//   2 bits: 16 inputs, 64 bytes; bit pair i of the byte = input 4i+j.
//   3 bits: 16 inputs, 96 bytes; the low two bits as for 2 bits, then for each row 16 bits:
//           bit 4i+j of the row's little-endian u16 is the third bit of input 4i+j.
//   6 bits: 16 inputs, 192 bytes; the low four bits of inputs 0–7 and of inputs 8–15 as for 4 bits,
//           then the high two bits as for 2 bits.
// The last panel is padded with rows of zero codes and zero scales, the last chunk with zero codes.
// A code q in [0, 2^bits) stands for scale·(q − zero). Groups run along k; the last may be short.
// Scales are fp16, zero points take 4 bits (a byte above 4 bits). What others made and these cannot say
// exactly has two wider forms, by flags of the format: float32 scales, and zero points of a byte at any
// width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace nibble {

inline constexpr int kPanelRows = 16;

// Whether the layout has chunks for codes of so many bits.
constexpr bool is_packed_bits(int64_t bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8;
}

struct PackedFormat {
  int bits = 4;               // 2, 3, 4, 6 or 8
  int group_size = 64;        // a multiple of 16; 0: the whole row
  bool symmetric = false;     // zero = 2^(bits−1), not stored
  int64_t n = 0, k = 0;       // outputs, inputs
  bool float_scales = false;  // scales are float32
  bool wide_zeros = false;    // zero points take a byte each

  int max_code() const { return (1 << bits) - 1; }
  int middle() const { return 1 << (bits - 1); }
  int64_t group() const { return group_size == 0 || group_size > k ? k : group_size; }
  int64_t groups() const { return (k + group() - 1) / group(); }
  int64_t panels() const { return (n + kPanelRows - 1) / kPanelRows; }
  int chunk_inputs() const { return bits == 8 ? 4 : bits == 4 ? 8 : 16; }
  int chunk_bytes() const { return bits == 3 ? 96 : bits == 6 ? 192 : 64; }
  int64_t chunks() const { return (k + chunk_inputs() - 1) / chunk_inputs(); }
  int64_t code_bytes() const { return panels() * chunks() * chunk_bytes(); }
  int64_t scale_count() const { return panels() * groups() * kPanelRows; }
  int zero_bytes_per_group() const { return symmetric ? 0 : bits > 4 || wide_zeros ? 16 : 8; }
  int scale_bytes() const { return float_scales ? 4 : 2; }
  int max_zero() const { return bits > 4 || wide_zeros ? 255 : max_code(); }
  int64_t zero_bytes() const { return panels() * groups() * zero_bytes_per_group(); }
  int64_t bytes() const { return code_bytes() + scale_count() * scale_bytes() + zero_bytes(); }
  void validate() const;  // throws Error for bits, group size or shape that the layout cannot say
};

// Packed weights somewhere in memory; codes 64-byte aligned.
struct PackedView {
  PackedFormat format;
  const uint8_t* codes = nullptr;    // [panels, chunks, chunk_bytes]
  const uint16_t* scales = nullptr;  // fp16 [panels, groups, 16]; null with float_scales
  const uint8_t* zeros =
      nullptr;  // [panels, groups, 8]: low nibble row j, high nibble row 8+j; 6 and 8 bits, wide: [.., 16]
  const float* float_scales = nullptr;  // [panels, groups, 16]; null without format.float_scales
};

// Quantized weights as plain arrays: what the quantizers make and the exporters read.
struct QuantizedMatrix {
  PackedFormat format;
  std::vector<uint8_t> codes;  // [n, k]
  std::vector<float> scales;   // [n, groups], each exactly representable in fp16 unless float_scales
  std::vector<uint8_t> zeros;  // [n, groups]; `middle()` when symmetric

  explicit QuantizedMatrix(const PackedFormat& format_);
  float value(int64_t row, int64_t input) const;
};

struct PackedBuffers {
  AlignedBuffer<uint8_t> codes;
  AlignedBuffer<uint16_t> scales;
  AlignedBuffer<uint8_t> zeros;
  AlignedBuffer<float> float_scales;
  PackedView view(const PackedFormat& format) const {
    return {format, codes.data(), scales.data(), zeros.data(), float_scales.data()};
  }
};
PackedBuffers pack(const QuantizedMatrix& matrix, ThreadPool* pool = nullptr);
QuantizedMatrix unpack(const PackedView& view);
void unpack_row(const PackedView& view, int64_t row, uint8_t* codes);  // [k]

// One code, scale or zero of a packed matrix; slow, for tests, exports and embedding rows.
int packed_code(const PackedView& view, int64_t row, int64_t input);
float packed_scale(const PackedView& view, int64_t row, int64_t group);
int packed_zero(const PackedView& view, int64_t row, int64_t group);

// out[k] = the dequantized row.
void dequantize_row(const PackedView& view, int64_t row, float* out);

}  // namespace nibble
