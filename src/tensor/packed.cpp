#include "tensor/packed.h"

#include <algorithm>
#include <array>

#include "tensor/dtype.h"

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

int64_t scale_offset(const PackedFormat& f, int64_t row, int64_t group) {
  return (row / kPanelRows * f.groups() + group) * kPanelRows + row % kPanelRows;
}

}  // namespace

void PackedFormat::validate() const {
  if (!is_packed_bits(bits)) fail("{} bits: only 2, 3, 4, 6 and 8 are supported", bits);
  if (group_size < 0 || group_size % 16 != 0)
    fail("group size {}: a multiple of 16 is needed, or 0 for the whole row", group_size);
  if (n < 1 || k < 1) fail("a weight of shape [{}, {}] cannot be quantized", n, k);
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

PackedBuffers pack(const QuantizedMatrix& m, ThreadPool* pool) {
  const PackedFormat& f = m.format;
  PackedBuffers out{AlignedBuffer<uint8_t>(static_cast<size_t>(f.code_bytes())),
                    AlignedBuffer<uint16_t>(static_cast<size_t>(f.float_scales ? 0 : f.scale_count())),
                    AlignedBuffer<uint8_t>(static_cast<size_t>(f.zero_bytes())),
                    AlignedBuffer<float>(static_cast<size_t>(f.float_scales ? f.scale_count() : 0))};
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
    for (int64_t g = 0; g < f.groups(); ++g) {
      const size_t at = static_cast<size_t>(row * f.groups() + g);
      const size_t to = static_cast<size_t>(scale_offset(f, row, g));
      if (f.float_scales) {
        out.float_scales[to] = m.scales[at];
      } else {
        out.scales[to] = float_to_fp16(m.scales[at]);
      }
      if (f.symmetric) continue;
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
  return v.format.float_scales ? v.float_scales[at] : fp16_to_float(v.scales[at]);
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
