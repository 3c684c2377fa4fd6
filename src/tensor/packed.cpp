#include "tensor/packed.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace nibble {
namespace {

// Some bits of a code: where they lie in its chunk, and which of the code's bits they are.
struct Part {
  int byte, row_bytes;  // for row r of the panel: byte + r · row_bytes
  int shift;
  int first, mask;  // bits first, first + 1, … of the code, as many as the mask has
};

// Of each input of a chunk; a code lies in one part or two.
struct ChunkLayout {
  int parts = 1;
  std::array<std::array<Part, 2>, 16> of = {};

  explicit ChunkLayout(int bits) {
    for (int i = 0; i < 16; ++i) {
      const int byte = i % 4, quad = i / 4;
      switch (bits) {
        case 3:
          parts = 2;
          of[static_cast<size_t>(i)] = {Part{byte, 4, 2 * quad, 0, 3}, Part{64 + i / 8, 2, i % 8, 2, 1}};
          break;
        case 6:
          parts = 2;
          of[static_cast<size_t>(i)] = {Part{byte + quad / 2 * 64, 4, quad % 2 * 4, 0, 15},
                                        Part{byte + 128, 4, 2 * quad, 4, 3}};
          break;
        default:
          of[static_cast<size_t>(i)][0] = {byte, 4, bits * quad, 0, (1 << bits) - 1};
      }
    }
  }
};

const ChunkLayout& chunk_layout(int bits) {
  static const ChunkLayout two(2), three(3), four(4), six(6), eight(8);
  return bits == 2 ? two : bits == 3 ? three : bits == 4 ? four : bits == 6 ? six : eight;
}

int64_t chunk_offset(const PackedFormat& f, int64_t row, int64_t chunk) {
  return (row / kPanelRows * f.chunks() + chunk) * f.chunk_bytes();
}

// Code of row r of a panel, input i of the chunk.
int code_in_chunk(const ChunkLayout& layout, const uint8_t* chunk, int r, int i) {
  int code = 0;
  for (int p = 0; p < layout.parts; ++p) {
    const Part& part = layout.of[static_cast<size_t>(i)][static_cast<size_t>(p)];
    code |= (chunk[part.byte + r * part.row_bytes] >> part.shift & part.mask) << part.first;
  }
  return code;
}

int64_t zero_offset(const PackedFormat& f, int64_t row, int64_t group) {
  const int64_t at = (row / kPanelRows * f.groups() + group) * f.zero_bytes_per_group();
  const int64_t r = row % kPanelRows;
  return at + (f.zero_bytes_per_group() == 16 ? r : r % 8);
}

int zero_shift(const PackedFormat& f, int64_t row) {
  return f.zero_bytes_per_group() == 8 && row % kPanelRows >= 8 ? 4 : 0;
}

// Of a row's scale, and of its unit.
int64_t scale_offset(const PackedFormat& f, int64_t row, int64_t group) {
  return ((row / kPanelRows + 1) * f.scale_rows() - f.groups() + group) * kPanelRows + row % kPanelRows;
}
int64_t unit_offset(const PackedFormat& f, int64_t row) {
  return row / kPanelRows * f.scale_rows() * kPanelRows + row % kPanelRows;
}

// A row's scales to where they are stored; unit: 0 where they are not bytes.
void pack_scales(const PackedFormat& f, int64_t row, const float* scales, float unit, uint8_t* out) {
  if (unit > 0) out[unit_offset(f, row)] = static_cast<uint8_t>(std::bit_cast<uint32_t>(unit) >> 23);
  for (int64_t g = 0; g < f.groups(); ++g) {
    const int64_t at = scale_offset(f, row, g);
    switch (f.scale_type) {
      case ScaleType::kF32:
        reinterpret_cast<float*>(out)[at] = scales[g];
        break;
      case ScaleType::kF16:
        reinterpret_cast<uint16_t*>(out)[at] = float_to_fp16(scales[g]);
        break;
      case ScaleType::kByte:
        out[at] = static_cast<uint8_t>(rounded_scale(scales[g], f.scale_type, unit) / unit);
    }
  }
}

}  // namespace

void PackedFormat::validate() const {
  if (!is_packed_bits(bits)) fail("{} bits: only 2, 3, 4, 6 and 8 are supported", bits);
  if (group_size < 0 || group_size % 16 != 0)
    fail("group size {}: a multiple of 16 is needed, or 0 for the whole row", group_size);
  if (n < 1 || k < 1) fail("a weight of shape [{}, {}] cannot be quantized", n, k);
  if (symmetric && scale_type == ScaleType::kByte)
    fail("scales of 8 bits have no sign: they go with zero points, not with symmetric groups");
}

DType scale_dtype(ScaleType type) {
  return type == ScaleType::kF32 ? DType::kF32 : type == ScaleType::kF16 ? DType::kF16 : DType::kU8;
}

float scale_unit(float largest) {
  int exponent = 0;
  const float fraction = std::frexp(largest / 255, &exponent);  // in [0.5, 1), or 0
  if (fraction == 0.5f) --exponent;
  return std::ldexp(1.0f, largest > 0 ? std::clamp(exponent, -24, 8) : -24);
}

float rounded_scale(float scale, ScaleType type, float unit) {
  switch (type) {
    case ScaleType::kF32:
      return scale;
    case ScaleType::kF16:
      return rounded_to_fp16(scale);
    default:
      NIBBLE_CHECK(unit > 0);
      return scale > 0 ? unit * std::clamp(std::nearbyint(scale / unit), 1.0f, 255.0f) : 0.0f;
  }
}

QuantizedMatrix::QuantizedMatrix(const PackedFormat& format_) : format(format_) {
  format.validate();
  codes.resize(static_cast<size_t>(format.n * format.k));
  scales.resize(static_cast<size_t>(format.n * format.groups()));
  zeros.assign(scales.size(), static_cast<uint8_t>(format.middle()));
}

float QuantizedMatrix::value(int64_t row, int64_t input) const {
  const size_t g = static_cast<size_t>(row * format.groups() + input / format.group());
  return scales[g] *
         static_cast<float>(int{codes[static_cast<size_t>(row * format.k + input)]} - int{zeros[g]});
}

std::vector<float> scale_units(std::span<const float> scales, const PackedFormat& f) {
  std::vector<float> units(static_cast<size_t>(f.n));
  if (f.scale_type != ScaleType::kByte) return units;
  const size_t groups = static_cast<size_t>(f.groups());
  for (size_t row = 0; row < units.size(); ++row) {
    const auto of_row = scales.subspan(row * groups, groups);
    units[row] = scale_unit(*std::max_element(of_row.begin(), of_row.end()));
  }
  return units;
}

PackedBuffers pack(const QuantizedMatrix& m, ThreadPool* pool) {
  const PackedFormat& f = m.format;
  PackedBuffers out{AlignedBuffer<uint8_t>(static_cast<size_t>(f.code_bytes())),
                    AlignedBuffer<uint8_t>(static_cast<size_t>(f.scale_bytes())),
                    AlignedBuffer<uint8_t>(static_cast<size_t>(f.zero_bytes()))};
  const std::vector<float> units = scale_units(m.scales, f);
  const ChunkLayout& layout = chunk_layout(f.bits);
  const auto pack_row = [&](int64_t row) {
    const int r = static_cast<int>(row % kPanelRows);
    const uint8_t* codes = m.codes.data() + row * f.k;
    for (int64_t c = 0; c < f.chunks(); ++c) {
      uint8_t* chunk = out.codes.data() + chunk_offset(f, row, c);
      const int count = static_cast<int>(std::min<int64_t>(f.chunk_inputs(), f.k - c * f.chunk_inputs()));
      for (int i = 0; i < count; ++i) {
        const int code = *codes++;
        NIBBLE_CHECK(code <= f.max_code());
        for (int p = 0; p < layout.parts; ++p) {
          const Part& part = layout.of[static_cast<size_t>(i)][static_cast<size_t>(p)];
          chunk[part.byte + r * part.row_bytes] |=
              static_cast<uint8_t>((code >> part.first & part.mask) << part.shift);
        }
      }
    }
    pack_scales(f, row, m.scales.data() + row * f.groups(), units[static_cast<size_t>(row)],
                out.scales.data());
    if (f.symmetric) return;
    for (int64_t g = 0; g < f.groups(); ++g) {
      const size_t at = static_cast<size_t>(row * f.groups() + g);
      NIBBLE_CHECK(m.zeros[at] <= f.max_zero());
      out.zeros[static_cast<size_t>(zero_offset(f, row, g))] |=
          static_cast<uint8_t>(m.zeros[at] << zero_shift(f, row));
    }
  };
  // Rows of a panel share bytes.
  const auto pack_rows = [&](size_t begin, size_t end, int) {
    for (size_t row = begin; row < end; ++row) pack_row(static_cast<int64_t>(row));
  };
  if (pool) {
    pool->parallel_for(static_cast<size_t>(f.n), kPanelRows, pack_rows);
  } else {
    pack_rows(0, static_cast<size_t>(f.n), 0);
  }
  return out;
}

int packed_code(const PackedView& v, int64_t row, int64_t input) {
  const PackedFormat& f = v.format;
  return code_in_chunk(chunk_layout(f.bits), v.codes + chunk_offset(f, row, input / f.chunk_inputs()),
                       static_cast<int>(row % kPanelRows), static_cast<int>(input % f.chunk_inputs()));
}

float packed_scale(const PackedView& v, int64_t row, int64_t group) {
  const int64_t at = scale_offset(v.format, row, group);
  switch (v.format.scale_type) {
    case ScaleType::kF32:
      return static_cast<const float*>(v.scales)[at];
    case ScaleType::kByte: {
      const uint8_t* bytes = static_cast<const uint8_t*>(v.scales);
      return std::bit_cast<float>(uint32_t{bytes[unit_offset(v.format, row)]} << 23) *
             static_cast<float>(bytes[at]);
    }
    default:
      return fp16_to_float(static_cast<const uint16_t*>(v.scales)[at]);
  }
}

int packed_zero(const PackedView& v, int64_t row, int64_t group) {
  if (v.format.symmetric) return v.format.middle();
  const int byte = v.zeros[zero_offset(v.format, row, group)];
  return v.format.zero_bytes_per_group() == 16 ? byte : byte >> zero_shift(v.format, row) & 15;
}

void unpack_row(const PackedView& v, int64_t row, uint8_t* codes) {
  const PackedFormat& f = v.format;
  const ChunkLayout& layout = chunk_layout(f.bits);
  const int r = static_cast<int>(row % kPanelRows);
  const uint8_t* chunk = v.codes + chunk_offset(f, row, 0);
  for (int64_t begin = 0; begin < f.k; begin += f.chunk_inputs(), chunk += f.chunk_bytes()) {
    const int count = static_cast<int>(std::min<int64_t>(f.chunk_inputs(), f.k - begin));
    for (int i = 0; i < count; ++i) *codes++ = static_cast<uint8_t>(code_in_chunk(layout, chunk, r, i));
  }
}

QuantizedMatrix unpack(const PackedView& v) {
  QuantizedMatrix m(v.format);
  const PackedFormat& f = v.format;
  for (int64_t row = 0; row < f.n; ++row) {
    unpack_row(v, row, m.codes.data() + row * f.k);
    for (int64_t g = 0; g < f.groups(); ++g) {
      m.scales[static_cast<size_t>(row * f.groups() + g)] = packed_scale(v, row, g);
      m.zeros[static_cast<size_t>(row * f.groups() + g)] = static_cast<uint8_t>(packed_zero(v, row, g));
    }
  }
  return m;
}

void dequantize_row(const PackedView& v, int64_t row, float* out) {
  const PackedFormat& f = v.format;
  const ChunkLayout& layout = chunk_layout(f.bits);
  const int r = static_cast<int>(row % kPanelRows), inputs = f.chunk_inputs();
  const uint8_t* chunk = v.codes + chunk_offset(f, row, 0);
  for (int64_t g = 0, i = 0; g < f.groups(); ++g) {
    const float scale = packed_scale(v, row, g);
    const int zero = packed_zero(v, row, g);
    const int64_t end = std::min(f.k, (g + 1) * f.group());
    for (; i < end; ++i)
      out[i] = scale * static_cast<float>(code_in_chunk(layout, chunk + i / inputs * f.chunk_bytes(), r,
                                                        static_cast<int>(i % inputs)) -
                                          zero);
  }
}

}  // namespace nibble
