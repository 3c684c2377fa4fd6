// Packed weights times activations: lanes are rows of a panel (tensor/packed.h). An instruction
// set with 8 lanes takes a panel as two halves of the same bytes.
#pragma once

#include <cstdint>

#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int64_t kSecondLevelCodes = 640 << 10;  // bytes of int8 activations that a block of rows may take

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

// The codes of a segment: `chunks` chunks of them (at most as many as a segment has), then zeros.
template <class V, int kBits>
inline const uint8_t* load_segment(const uint8_t* chunk, int half, int64_t chunks,
                                   typename V::I (&codes)[kActSegment / 4]) {
  using C = Chunk<V, kBits>;
  NIBBLE_UNROLL for (int c = 0; c < kActSegment / C::kInputs; ++c) {
    if (c < chunks) {
      C::load(chunk, half, codes + c * C::kVectors);
      chunk += C::kBytes;
    } else {
      NIBBLE_UNROLL for (int i = 0; i < C::kVectors; ++i) codes[c * C::kVectors + i] = V::izero();
    }
  }
  return chunk;
}

// What a group's sums are multiplied with, [2][lanes]: its scales, and its zero points as integers where
// products are added as such, else times the scales.
template <class V, int kBits>
inline void group_factors(const PackedView& w, int64_t panel, int64_t first_group, int64_t group, int half,
                          float* factors) {
  const typename V::F scale = load_scales<V>(w, panel, first_group, group, half);
  const typename V::I zeros = load_zeros<V, kBits>(w, first_group + group, half);
  V::store(factors, scale);
  if constexpr (V::kSteps) {
    V::istore(factors + V::kLanes, zeros);
  } else {
    V::store(factors + V::kLanes, V::mul(scale, V::to_float(zeros)));
  }
}

// factors: those of all groups; a tile of few rows makes its own as they come.
template <class V, int kBits, int kRows>
void packed_i8_tile(const PackedView& w, int64_t panel, int half, const float* factors, const ActI8View& x,
                    int64_t first, typename V::F start, float* y, int64_t ldy, int64_t valid) {
  using C = Chunk<V, kBits>;
  constexpr int64_t kHalves = kPanelRows / V::kLanes, kWhole = kActSegment / C::kInputs;  // chunks a segment
  const PackedFormat& f = w.format;
  ActI8Row acts = x.row(first);  // of kRows rows
  const int64_t chunks = f.chunks(), panel_bytes = chunks * C::kBytes;
  const uint8_t* chunk = w.codes + panel * panel_bytes;
  // The last rows bring in their half's share of the next panel's codes, so that reading never pauses: with
  // few rows the memory is the limit, and with up to eight a pause is still a third of the time. The rows
  // before them ask for what they read anyway.
  const bool last = first + kRows >= x.rows;
  const uint8_t* ahead = chunk + (last ? panel_bytes : 0) + half * panel_bytes / kHalves;
  const auto next_segment = [&] {
    acts.codes += kRows * kActSegment;
    if constexpr (V::kSteps) {
      acts.steps += kRows;
    } else {
      acts.scales += kRows;
    }
  };
  // Then totals stay in memory: registers are for the sums and codes of a block.
  constexpr bool kManyRows = kRows > 4;
  alignas(64) float total[kRows][V::kLanes];
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) V::store(total[r], start);
  const int64_t segments = x.segments(), block_segments = x.block / kActSegment;
  alignas(64) float own[2 * V::kLanes];
  int64_t left = chunks, until = 0, group = 0;
  const int64_t first_group = kRows <= kReadingRows ? panel * f.groups() : 0;
  for (int64_t s = 0; s < segments;) {
    if (s * kActSegment >= until) {
      if constexpr (kRows <= kReadingRows) {
        group_factors<V, kBits>(w, panel, first_group, group++, half, own);
        factors = own;
      } else if (s > 0) {
        factors += 2 * V::kLanes;
      }
      until += f.group();
    }
    typename V::I whole[kRows];
    typename V::F sum[kRows];
    if constexpr (V::kSteps) {
      const typename V::I zero = V::iload(factors + V::kLanes);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) whole[r] =
          V::isub(V::izero(), V::imul(zero, V::iset(acts.counts[r])));
    } else {
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) sum[r] = V::zero();
    }
    const int64_t end = s + block_segments < segments ? s + block_segments : segments;
    for (; s < end; ++s, left -= kWhole, next_segment()) {
      NIBBLE_UNROLL for (int64_t at = 0; at < kWhole * C::kBytes / kHalves; at += 64) {
        __builtin_prefetch(ahead + at, 0, 2);
      }
      ahead += kWhole * C::kBytes / kHalves;
      if constexpr (V::kSteps && kBits == 4 && kRows == kActRows) {
        if (left >= kWhole) {
          V::tile_dot16(whole, chunk + half * 32, acts.codes, acts.steps);
          chunk += kWhole * C::kBytes;
          continue;
        }
      }
      typename V::I codes[kActSegment / 4];
      chunk = left >= kWhole ? load_segment<V, kBits>(chunk, half, kWhole, codes)
                             : load_segment<V, kBits>(chunk, half, left, codes);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
        const int8_t* act = acts.codes + r * kActSegment;
        if constexpr (V::kSteps) {
          whole[r] = V::template dot16<kBits>(whole[r], codes, act, V::iset(acts.steps[r]));
        } else {
          const typename V::I dot = V::template dot16<kBits>(V::izero(), codes, act);
          sum[r] = V::fma(V::to_float(dot), V::set(acts.scales[r]), sum[r]);
        }
      }
    }
    const typename V::F scale = V::load(factors);
    if constexpr (kManyRows) asm volatile("" : "+m"(total));
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
      if constexpr (V::kSteps) {
        const typename V::F by_unit = V::mul(V::to_float(whole[r]), V::set(acts.units[r]));
        V::store(total[r], V::fma(scale, by_unit, V::load(total[r])));
      } else {
        const typename V::F sums = V::set(acts.sums[r]);
        V::store(total[r],
                 V::fnma(V::load(factors + V::kLanes), sums, V::fma(scale, sum[r], V::load(total[r]))));
      }
    }
    if constexpr (kManyRows) asm volatile("" : "+m"(total));
    if constexpr (V::kSteps) {
      acts.units += kRows, acts.counts += kRows;
    } else {
      acts.sums += kRows;
    }
  }
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) V::store(y + r * ldy, V::load(total[r]), valid);
}

template <class V, int kBits, int kRows = kActRows>
void packed_i8_rows(int rows, const PackedView& w, int64_t panel, int half, const float* factors,
                    const ActI8View& x, int64_t first, typename V::F start, float* y, int64_t ldy,
                    int64_t valid) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return packed_i8_rows<V, kBits, kRows - 1>(rows, w, panel, half, factors, x, first, start, y, ldy,
                                                 valid);
  }
  packed_i8_tile<V, kBits, kRows>(w, panel, half, factors, x, first, start, y, ldy, valid);
}

template <class V, int kBits>
void packed_i8_bits(const PackedView& w, const ActI8View& x, const float* bias, float* y, int64_t ldy,
                    int64_t panel_begin, int64_t panel_end, float* scratch) {
  constexpr int kHalves = kPanelRows / V::kLanes;
  const int64_t groups = w.format.groups();
  int64_t rows_at_once = kSecondLevelCodes / x.stride / kActRows * kActRows;
  if (rows_at_once < kActRows) rows_at_once = kActRows;
  for (int64_t begin = 0; begin < x.rows; begin += rows_at_once) {
    const int64_t end = begin + rows_at_once < x.rows ? begin + rows_at_once : x.rows;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      for (int half = 0; half < kHalves && end - begin > kReadingRows; ++half) {
        for (int64_t group = 0; group < groups; ++group)
          group_factors<V, kBits>(w, panel, panel * groups, group, half,
                                  scratch + (half * groups + group) * 2 * V::kLanes);
      }
      for (int64_t i = begin; i < end; i += kActRows) {
        const int rows = static_cast<int>(end - i < kActRows ? end - i : kActRows);
        for_each_half<V>(w.format, panel, panel + 1, [&](int64_t, int half, int64_t row, int64_t valid) {
          packed_i8_rows<V, kBits>(rows, w, panel, half, scratch + half * groups * 2 * V::kLanes, x, i,
                                   load_bias<V>(bias, row, valid), y + i * ldy + row, ldy, valid);
        });
      }
    }
  }
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

template <class V>
void packed_i8(const PackedView& w, const ActI8View& x, const float* bias, float* y, int64_t ldy,
               int64_t panel_begin, int64_t panel_end, float* scratch) {
  const auto run = w.format.bits == 2   ? packed_i8_bits<V, 2>
                   : w.format.bits == 3 ? packed_i8_bits<V, 3>
                   : w.format.bits == 4 ? packed_i8_bits<V, 4>
                   : w.format.bits == 6 ? packed_i8_bits<V, 6>
                                        : packed_i8_bits<V, 8>;
  run(w, x, bias, y, ldy, panel_begin, panel_end, scratch);
}

}  // namespace
}  // namespace nibble
