#include "tensor/packed.h"

#include <algorithm>

#include "tensor/dtype.h"

namespace nibble {
namespace {

// Where some bits of a code lie: byte and shift in the packed codes, and which of the code's bits.
struct Place {
  int64_t byte;
  int shift;
  int first, count;  // bits [first, first + count) of the code

  int mask() const { return (1 << count) - 1; }
};

// A code lies in one place, or in two.
struct Places {
  Place part[2];
  int count;
};

Places places(const PackedFormat& f, int64_t row, int64_t input) {
  const int64_t r = row % kPanelRows, i = input % f.chunk_inputs();
  const int64_t chunk = (row / kPanelRows * f.chunks() + input / f.chunk_inputs()) * f.chunk_bytes();
  const int64_t byte = chunk + 4 * r + i % 4;
  const int quad = static_cast<int>(i / 4);  // of the chunk's inputs
  switch (f.bits) {
    case 3:
      return {{{byte, 2 * quad, 0, 2}, {chunk + 64 + 2 * r + i / 8, static_cast<int>(i % 8), 2, 1}}, 2};
    case 6:
      return {{{byte + quad / 2 * 64, quad % 2 * 4, 0, 4}, {byte + 128, 2 * quad, 4, 2}}, 2};
    default:
      return {{{byte, f.bits * quad, 0, f.bits}, {}}, 1};
  }
}

int64_t zero_offset(const PackedFormat& f, int64_t row, int64_t group) {
  const int64_t at = (row / kPanelRows * f.groups() + group) * f.zero_bytes_per_group();
  const int64_t r = row % kPanelRows;
  return at + (f.bits > 4 ? r : r % 8);
}

int zero_shift(const PackedFormat& f, int64_t row) { return f.bits <= 4 && row % kPanelRows >= 8 ? 4 : 0; }

int64_t scale_offset(const PackedFormat& f, int64_t row, int64_t group) {
  return (row / kPanelRows * f.groups() + group) * kPanelRows + row % kPanelRows;
}

}  // namespace

void PackedFormat::validate() const {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 6 && bits != 8)
    fail("{} bits: only 2, 3, 4, 6 and 8 are supported", bits);
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

PackedBuffers pack(const QuantizedMatrix& m) {
  const PackedFormat& f = m.format;
  PackedBuffers out{AlignedBuffer<uint8_t>(static_cast<size_t>(f.code_bytes())),
                    AlignedBuffer<uint16_t>(static_cast<size_t>(f.scale_count())),
                    AlignedBuffer<uint8_t>(static_cast<size_t>(f.zero_bytes()))};
  for (int64_t row = 0; row < f.n; ++row) {
    for (int64_t i = 0; i < f.k; ++i) {
      const int code = m.codes[static_cast<size_t>(row * f.k + i)];
      NIBBLE_CHECK(code <= f.max_code());
      const Places at = places(f, row, i);
      for (int p = 0; p < at.count; ++p) {
        const Place& place = at.part[p];
        out.codes[static_cast<size_t>(place.byte)] |=
            static_cast<uint8_t>((code >> place.first & place.mask()) << place.shift);
      }
    }
    for (int64_t g = 0; g < f.groups(); ++g) {
      const size_t at = static_cast<size_t>(row * f.groups() + g);
      out.scales[static_cast<size_t>(scale_offset(f, row, g))] = float_to_fp16(m.scales[at]);
      if (f.symmetric) continue;
      NIBBLE_CHECK(m.zeros[at] <= f.max_code());
      out.zeros[static_cast<size_t>(zero_offset(f, row, g))] |=
          static_cast<uint8_t>(m.zeros[at] << zero_shift(f, row));
    }
  }
  return out;
}

int packed_code(const PackedView& v, int64_t row, int64_t input) {
  const Places at = places(v.format, row, input);
  int code = 0;
  for (int p = 0; p < at.count; ++p) {
    const Place& place = at.part[p];
    code |= (v.codes[place.byte] >> place.shift & place.mask()) << place.first;
  }
  return code;
}

float packed_scale(const PackedView& v, int64_t row, int64_t group) {
  return fp16_to_float(v.scales[scale_offset(v.format, row, group)]);
}

int packed_zero(const PackedView& v, int64_t row, int64_t group) {
  if (v.format.symmetric) return v.format.middle();
  const int byte = v.zeros[zero_offset(v.format, row, group)];
  return v.format.bits > 4 ? byte : byte >> zero_shift(v.format, row) & 15;
}

QuantizedMatrix unpack(const PackedView& v) {
  QuantizedMatrix m(v.format);
  const PackedFormat& f = v.format;
  for (int64_t row = 0; row < f.n; ++row) {
    for (int64_t i = 0; i < f.k; ++i)
      m.codes[static_cast<size_t>(row * f.k + i)] = static_cast<uint8_t>(packed_code(v, row, i));
    for (int64_t g = 0; g < f.groups(); ++g) {
      m.scales[static_cast<size_t>(row * f.groups() + g)] = packed_scale(v, row, g);
      m.zeros[static_cast<size_t>(row * f.groups() + g)] = static_cast<uint8_t>(packed_zero(v, row, g));
    }
  }
  return m;
}

void dequantize_row(const PackedView& v, int64_t row, float* out) {
  const PackedFormat& f = v.format;
  for (int64_t g = 0; g < f.groups(); ++g) {
    const float scale = packed_scale(v, row, g);
    const int zero = packed_zero(v, row, g);
    const int64_t end = std::min(f.k, (g + 1) * f.group());
    for (int64_t i = g * f.group(); i < end; ++i)
      out[i] = scale * static_cast<float>(packed_code(v, row, i) - zero);
  }
}

}  // namespace nibble
