// The codes, scales and zero points of packed weights as vectors: lanes are rows of a panel
// (tensor/packed.h). An instruction set with 8 lanes takes a panel as two halves of the same bytes. And their
// products with float activations.
#pragma once

#include <cstdint>

#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

// The codes of one chunk as vectors of unsigned bytes: byte j of a lane of out[i] is input 4i+j.
template <class V, int kBits>
struct Chunk {
  static constexpr int kVectors = kBits == 8 ? 1 : kBits == 4 ? 2 : 4;
  static constexpr int kInputs = 4 * kVectors;
  static constexpr int kBytes = kBits == 3 ? 96 : kBits == 6 ? 192 : 64;

  static void load(const uint8_t* chunk, int half, typename V::I out[kVectors]) {
    const typename V::I low = V::iload(chunk + half * 32);
    if constexpr (kBits == 8) {
      out[0] = low;
    } else if constexpr (kBits == 4) {
      const typename V::I mask = V::iset(0x0f0f0f0f);
      out[0] = V::iand(low, mask);
      out[1] = V::iand(V::template shr<4>(low), mask);
    } else if constexpr (kBits == 6) {
      const typename V::I mask = V::iset(0x0f0f0f0f), pair = V::iset(0x30303030);
      const typename V::I next = V::iload(chunk + 64 + half * 32), high = V::iload(chunk + 128 + half * 32);
      out[0] = V::ior(V::iand(low, mask), V::iand(V::template shl<4>(high), pair));
      out[1] = V::ior(V::iand(V::template shr<4>(low), mask), V::iand(V::template shl<2>(high), pair));
      out[2] = V::ior(V::iand(next, mask), V::iand(high, pair));
      out[3] = V::ior(V::iand(V::template shr<4>(next), mask), V::iand(V::template shr<2>(high), pair));
    } else {
      const typename V::I mask = V::iset(0x03030303);
      out[0] = V::iand(low, mask);
      out[1] = V::iand(V::template shr<2>(low), mask);
      out[2] = V::iand(V::template shr<4>(low), mask);
      out[3] = V::iand(V::template shr<6>(low), mask);
      if constexpr (kBits == 3) {
        const typename V::I bits = V::load_u16(chunk + 64 + half * 16);
        out[0] = V::ior(out[0], third(bits));
        out[1] = V::ior(out[1], third(V::template shr<4>(bits)));
        out[2] = V::ior(out[2], third(V::template shr<8>(bits)));
        out[3] = V::ior(out[3], third(V::template shr<12>(bits)));
      }
    }
  }

 private:
  // Bit j of each lane's low nibble to bit 2 of byte j: the product puts bit j at 8j.
  static typename V::I third(typename V::I bits) {
    const typename V::I nibble = V::iand(bits, V::iset(15));
    return V::template shl<2>(V::iand(V::imul(nibble, V::iset(0x00204081)), V::iset(0x01010101)));
  }
};

// The zero points and scales of a half panel's group. at: first_group + group; first_group: panel · groups, a
// division that is not to be made for every group.
template <class V, int kBits>
inline typename V::I load_zeros(const PackedView& w, int64_t at, int half) {
  if (w.format.symmetric) return V::iset(w.format.middle());
  const uint8_t* zeros = w.zeros + at * w.format.zero_bytes_per_group();
  return kBits > 4 || w.format.wide_zeros ? V::load_u8(zeros + half * 8) : V::load_zero_nibbles(zeros, half);
}

template <class V>
inline typename V::F load_scales(const PackedView& w, int64_t panel, int64_t first_group, int64_t group,
                                 int half) {
  const int64_t first = (first_group + group) * kPanelRows + half * 8;
  switch (w.format.scale_type) {
    case ScaleType::kF32:
      return V::load(static_cast<const float*>(w.scales) + first);
    case ScaleType::kByte: {
      const uint8_t* units = static_cast<const uint8_t*>(w.scales) + first + (panel - group) * kPanelRows;
      const typename V::F unit = V::as_float(V::template shl<23>(V::load_u8(units)));
      return V::mul(unit, V::to_float(V::load_u8(units + (1 + group) * kPanelRows)));
    }
    default:
      return V::load_f16(static_cast<const uint16_t*>(w.scales) + first);
  }
}

template <class V>
typename V::F load_bias(const float* bias, int64_t row, int64_t valid) {
  return bias ? V::load(bias + row, valid) : V::zero();
}

// Half panels of the range, each with the rows that exist in it.
template <class V, class Body>
void for_each_half(const PackedFormat& f, int64_t panel_begin, int64_t panel_end, Body body) {
  constexpr int kHalves = kPanelRows / V::kLanes;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for (int half = 0; half < kHalves; ++half) {
      const int64_t row = panel * kPanelRows + half * V::kLanes;
      const int64_t left = f.n - row;
      if (left > 0) body(panel, half, row, left < V::kLanes ? left : V::kLanes);
    }
  }
}

// Float activations: first the half panel's (q − zero) as floats [k padded][lanes] in scratch,
// then tiles of rows of x over it.
template <class V, int kBits>
void decode_half(const PackedView& w, int64_t panel, int half, float* scratch) {
  using C = Chunk<V, kBits>;
  const PackedFormat& f = w.format;
  const uint8_t* chunk = w.codes + panel * f.chunks() * C::kBytes;
  const int64_t first_group = panel * f.groups();
  const int64_t per_group = f.group() >= f.k ? f.chunks() : f.group() / C::kInputs;
  const typename V::I byte = V::iset(255);
  typename V::F zero = V::zero();
  for (int64_t c = 0, group = 0, until = 0; c < f.chunks(); ++c, chunk += C::kBytes) {
    if (c == until) {
      zero = V::to_float(load_zeros<V, kBits>(w, first_group + group++, half));
      until += per_group;
    }
    typename V::I codes[C::kVectors];
    C::load(chunk, half, codes);
    NIBBLE_UNROLL for (int i = 0; i < C::kVectors; ++i) {
      const typename V::I v = codes[i];
      V::store(scratch + 0 * V::kLanes, V::sub(V::to_float(V::iand(v, byte)), zero));
      V::store(scratch + 1 * V::kLanes, V::sub(V::to_float(V::iand(V::template shr<8>(v), byte)), zero));
      V::store(scratch + 2 * V::kLanes, V::sub(V::to_float(V::iand(V::template shr<16>(v), byte)), zero));
      V::store(scratch + 3 * V::kLanes, V::sub(V::to_float(V::template shr<24>(v)), zero));
      scratch += 4 * V::kLanes;
    }
  }
}

template <class V, int kRows>
void packed_f32_tile(const PackedView& w, int64_t panel, int half, const float* decoded, const float* x,
                     int64_t ldx, typename V::F start, float* y, int64_t ldy, int64_t valid) {
  const PackedFormat& f = w.format;
  typename V::F total[kRows];
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) total[r] = start;
  const int64_t g = f.group(), first_group = panel * f.groups();
  for (int64_t group = 0, c = 0; c < f.k; ++group) {
    const int64_t end = c + g < f.k ? c + g : f.k;
    typename V::F sum[kRows];
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) sum[r] = V::zero();
    for (; c < end; ++c) {
      const typename V::F q = V::load(decoded + c * V::kLanes);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) sum[r] = V::fma(V::set(x[r * ldx + c]), q, sum[r]);
    }
    const typename V::F scale = load_scales<V>(w, panel, first_group, group, half);
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) total[r] = V::fma(scale, sum[r], total[r]);
  }
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) V::store(y + r * ldy, total[r], valid);
}

template <class V, int kRows = V::kPackedRows>
void packed_f32_rows(int rows, const PackedView& w, int64_t panel, int half, const float* decoded,
                     const float* x, int64_t ldx, typename V::F start, float* y, int64_t ldy, int64_t valid) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return packed_f32_rows<V, kRows - 1>(rows, w, panel, half, decoded, x, ldx, start, y, ldy, valid);
  }
  packed_f32_tile<V, kRows>(w, panel, half, decoded, x, ldx, start, y, ldy, valid);
}

template <class V, int kBits>
void packed_f32_bits(const PackedView& w, const float* x, int64_t ldx, const float* bias, float* y,
                     int64_t ldy, int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  for_each_half<V>(w.format, panel_begin, panel_end,
                   [&](int64_t panel, int half, int64_t row, int64_t valid) {
                     decode_half<V, kBits>(w, panel, half, scratch);
                     const typename V::F start = load_bias<V>(bias, row, valid);
                     for (int64_t i = 0; i < m; i += V::kPackedRows) {
                       const int rows = static_cast<int>(m - i < V::kPackedRows ? m - i : V::kPackedRows);
                       packed_f32_rows<V>(rows, w, panel, half, scratch, x + i * ldx, ldx, start,
                                          y + i * ldy + row, ldy, valid);
                     }
                   });
}

template <class V>
void packed_f32(const PackedView& w, const float* x, int64_t ldx, const float* bias, float* y, int64_t ldy,
                int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  const auto run = w.format.bits == 2   ? packed_f32_bits<V, 2>
                   : w.format.bits == 3 ? packed_f32_bits<V, 3>
                   : w.format.bits == 4 ? packed_f32_bits<V, 4>
                   : w.format.bits == 6 ? packed_f32_bits<V, 6>
                                        : packed_f32_bits<V, 8>;
  run(w, x, ldx, bias, y, ldy, m, panel_begin, panel_end, scratch);
}

}  // namespace
}  // namespace nibble
