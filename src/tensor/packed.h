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
// Scales are fp16, or bytes: multiples of a unit that the row's groups share, a power of two from 2^-24 to
// 2^8, so that fp16 holds each of them exactly; they have no sign and go with zero points. Zero points take 4
// bits (a byte above 4 bits). What others made and these cannot say exactly has two wider forms: float32
// scales, and zero points of a byte at any width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace nibble {

inline constexpr int kPanelRows = 16;

// Whether the layout has chunks for codes of so many bits.
constexpr bool is_packed_bits(int64_t bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8;
}

enum class ScaleType : uint8_t { kF16, kF32, kByte };
DType scale_dtype(ScaleType type);  // of the tensor that holds them

// The least unit whose bytes reach `largest`.
float scale_unit(float largest);
// As it is stored; `unit`: of its row, where scales are bytes. A positive scale stays positive then.
float rounded_scale(float scale, ScaleType type, float unit);

struct PackedFormat {
  int bits = 4;            // 2, 3, 4, 6 or 8
  int group_size = 64;     // a multiple of 16; 0: the whole row
  bool symmetric = false;  // zero = 2^(bits−1), not stored
  int64_t n = 0, k = 0;    // outputs, inputs
  ScaleType scale_type = ScaleType::kF16;
  bool wide_zeros = false;  // zero points take a byte each

  int max_code() const { return (1 << bits) - 1; }
  int middle() const { return 1 << (bits - 1); }
  int64_t group() const { return group_size == 0 || group_size > k ? k : group_size; }
  int64_t groups() const { return (k + group() - 1) / group(); }
  int64_t panels() const { return (n + kPanelRows - 1) / kPanelRows; }
  int chunk_inputs() const { return bits == 8 ? 4 : bits == 4 ? 8 : 16; }
  int chunk_bytes() const { return bits == 3 ? 96 : bits == 6 ? 192 : 64; }
  int64_t chunks() const { return (k + chunk_inputs() - 1) / chunk_inputs(); }
  int64_t code_bytes() const { return panels() * chunks() * chunk_bytes(); }
  // Of a panel: its groups, before them, where scales are bytes, the rows' units.
  int64_t scale_rows() const { return groups() + (scale_type == ScaleType::kByte ? 1 : 0); }
  int64_t scale_count() const { return panels() * scale_rows() * kPanelRows; }
  int zero_bytes_per_group() const { return symmetric ? 0 : bits > 4 || wide_zeros ? 16 : 8; }
  int64_t scale_bytes() const {
    return scale_count() * static_cast<int64_t>(dtype_size(scale_dtype(scale_type)));
  }
  int max_zero() const { return bits > 4 || wide_zeros ? 255 : max_code(); }
  int64_t zero_bytes() const { return panels() * groups() * zero_bytes_per_group(); }
  int64_t bytes() const { return code_bytes() + scale_bytes() + zero_bytes(); }
  void validate() const;  // throws Error for what the layout cannot say
};

// Packed weights somewhere in memory; codes 64-byte aligned.
struct PackedView {
  PackedFormat format;
  const uint8_t* codes = nullptr;  // [panels, chunks, chunk_bytes]
  // [panels, groups, 16] of the format's type; bytes: [panels, 1 + groups, 16], of each panel first the rows'
  // units as float32's exponent field, 2^(byte − 127), then the multiples of them.
  const void* scales = nullptr;
  const uint8_t* zeros =
      nullptr;  // [panels, groups, 8]: low nibble row j, high nibble row 8+j; 6 and 8 bits, wide: [.., 16]
};

// Quantized weights as plain arrays: what the quantizers make and the exporters read.
struct QuantizedMatrix {
  PackedFormat format;
  std::vector<uint8_t> codes;  // [n, k]
  std::vector<float> scales;   // [n, groups], each as the format's type can say it
  std::vector<uint8_t> zeros;  // [n, groups]; `middle()` when symmetric

  explicit QuantizedMatrix(const PackedFormat& format_);
  float value(int64_t row, int64_t input) const;
};

// The units [n] of rows with these scales [n, groups]; 0 where scales are not bytes.
std::vector<float> scale_units(std::span<const float> scales, const PackedFormat& format);

struct PackedBuffers {
  AlignedBuffer<uint8_t> codes;
  AlignedBuffer<uint8_t> scales;  // the bytes of PackedView::scales
  AlignedBuffer<uint8_t> zeros;
  PackedView view(const PackedFormat& format) const {
    return {format, codes.data(), scales.data(), zeros.data()};
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
