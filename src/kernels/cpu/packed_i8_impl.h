// Packed weights times int8 activations: vectors along the 16 rows of a panel, an int32 dot product for each
// segment of inputs (ops.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/packed_i8_groups_impl.h"

namespace nibble {
namespace {

constexpr int64_t kSecondLevelCodes = 640 << 10;  // bytes of int8 activations that a block of rows may take

// What a group's sums are multiplied with, [2][lanes]: its scales, and its zero points, as integers where
// products are added as such.
template <class V, int kBits>
NIBBLE_INLINE void group_factors(const PackedView& w, int64_t panel, int64_t first_group, int64_t group,
                                 int half, float* factors) {
  const typename V::F scale = load_scales<V>(w, panel, first_group, group, half);
  const typename V::I zeros = load_zeros<V, kBits>(w, first_group + group, half);
  V::store(factors, scale);
  if constexpr (V::kSteps) {
    V::istore(factors + V::kLanes, zeros);
  } else {
    V::store(factors + V::kLanes, V::to_float(zeros));
  }
}

// Vectors of whole panels, of which there are enough registers for two panels' sums at a time.
template <class V>
constexpr bool kWholePanels = V::kLanes == kPanelRows;

// Whether a tile makes its groups' factors as they come; else they lie in scratch, those of all groups.
template <class V>
constexpr bool makes_factors(int64_t rows) {
  return kWholePanels<V> || rows <= kReadingRows;
}

// A half panel, or the whole panels `panel` and the next, whose products share what is loaded of x. start:
// the bias of each, y: the first one's, valid: rows that exist in the last.
template <class V, int kBits, int kRows, int kPanels>
void packed_i8_tile(const PackedI8& product, int64_t panel, int half, const float* factors, int64_t first,
                    const typename V::F (&start)[kPanels], float* y, int64_t ldy, int64_t valid) {
  static_assert(kPanels == 1 || (kPanels == 2 && kWholePanels<V> && !V::kSteps));
  const PackedView& w = product.w;
  const ActI8View& x = product.x;
  ActI8Row acts = x.row(first, product.blocks);  // of kRows rows
  const bool last_rows = first + kRows >= x.rows;
  CodeStream<V, kBits> streams[kPanels];
  NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p)
      streams[p] = {product, panel + p, half, last_rows ? kPanels : 0};
  const auto next_segment = [&] {
    acts.codes += kRows * kActSegment;
    if constexpr (V::kSteps) {
      acts.steps += kRows;
    } else {
      acts.scales += kRows;
    }
  };
  // Then totals stay in memory: registers are for the sums and codes of a block.
  constexpr bool kManyRows = kPanels * kRows > 4;
  alignas(64) float total[kPanels][kRows][V::kLanes];
  NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) V::store(total[p][r], start[p]);
  }
  const int64_t segments = x.segments(), block_segments = x.block / kActSegment;
  alignas(64) float own[kPanels][2 * V::kLanes];
  int64_t until = 0, group = 0;
  for (int64_t s = 0; s < segments;) {
    if (s * kActSegment >= until) {
      if constexpr (makes_factors<V>(kRows)) {
        NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p)
            group_factors<V, kBits>(w, panel + p, (panel + p) * product.groups, group, half, own[p]);
        factors = own[0];
        ++group;
      } else if (s > 0) {
        factors += 2 * V::kLanes;
      }
      until += product.group;
    }
    typename V::I whole[kRows];
    typename V::F sum[kPanels][kRows];
    if constexpr (V::kSteps) {
      const typename V::I zero = V::iload(factors + V::kLanes);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) whole[r] =
          V::isub(V::izero(), V::imul(zero, V::iset(acts.counts[r])));
    } else {
      NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
        const typename V::F zero = V::load(factors + (2 * p + 1) * V::kLanes);
        NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) sum[p][r] =
            V::fnma(zero, V::set(acts.sums[r]), V::zero());
      }
    }
    const int64_t end = s + block_segments < segments ? s + block_segments : segments;
    for (; s < end; ++s, next_segment()) {
      NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) streams[p].ask_ahead();
      if constexpr (V::kSteps && kBits == 4 && kRows == kActRows) {
        if (streams[0].left >= streams[0].kWhole) {
          V::tile_dot16(whole, streams[0].chunk + half * 32, acts.codes, acts.steps);
          streams[0].skip();
          continue;
        }
      }
      typename V::I codes[kPanels][kActSegment / 4];
      NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) streams[p].next(codes[p]);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
        const int8_t* act = acts.codes + r * kActSegment;
        if constexpr (V::kSteps) {
          whole[r] = V::template dot16<kBits>(whole[r], codes[0], act, V::iset(acts.steps[r]));
        } else {
          typename V::I dot[kPanels];
          if constexpr (kPanels == 2) {
            V::dot16_of_two(dot, codes[0], codes[1], act);
          } else {
            dot[0] = V::template dot16<kBits>(V::izero(), codes[0], act);
          }
          const typename V::F scale = V::set(acts.scales[r]);
          NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) sum[p][r] =
              V::fma(V::to_float(dot[p]), scale, sum[p][r]);
        }
      }
    }
    if constexpr (kManyRows) asm volatile("" : "+m"(total));
    NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
      const typename V::F scale = V::load(factors + 2 * p * V::kLanes);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
        if constexpr (V::kSteps) {
          const typename V::F by_unit = V::mul(V::to_float(whole[r]), V::set(acts.units[r]));
          V::store(total[p][r], V::fma(scale, by_unit, V::load(total[p][r])));
        } else {
          V::store(total[p][r], V::fma(scale, sum[p][r], V::load(total[p][r])));
        }
      }
    }
    if constexpr (kManyRows) asm volatile("" : "+m"(total));
    if constexpr (V::kSteps) {
      acts.units += kRows, acts.counts += kRows;
    } else {
      acts.sums += kRows;
    }
  }
  NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r)
        V::store(y + r * ldy + p * kPanelRows, V::load(total[p][r]), p + 1 < kPanels ? V::kLanes : valid);
  }
}

// The tile of so many rows; of two panels: more than kReadingRows.
template <class V, int kBits, int kPanels, int kRows = kActRows>
void packed_i8_rows(int rows, const PackedI8& product, int64_t panel, int half, const float* factors,
                    int64_t first, const typename V::F (&start)[kPanels], float* y, int64_t ldy,
                    int64_t valid) {
  if constexpr (kRows > (kPanels == 1 ? 1 : kReadingRows + 1)) {
    if (rows < kRows)
      return packed_i8_rows<V, kBits, kPanels, kRows - 1>(rows, product, panel, half, factors, first, start,
                                                          y, ldy, valid);
  }
  // Groups that are one block of activations, as those of up to 128 inputs are.
  const int64_t segments = product.group == product.x.block ? product.group / kActSegment : 0;
  if constexpr (!V::kSteps && (kRows <= kReadingRows || (kRows == kActRows && kWholePanels<V>))) {
    if (segments == 1)
      return packed_i8_groups_of<V, kBits, kRows, kPanels, 1>(product, int64_t{1}, panel, half, first, start,
                                                              y, ldy, valid);
  }
  if constexpr (!V::kSteps && kRows <= kReadingRows) {
    if (segments > 0 && segments % 2 == 0)
      return packed_i8_groups_of<V, kBits, kRows, kPanels, 2>(product, segments / 2, panel, half, first,
                                                              start, y, ldy, valid);
  }
  packed_i8_tile<V, kBits, kRows, kPanels>(product, panel, half, factors, first, start, y, ldy, valid);
}

template <class V, int kBits>
void packed_i8_bits(const PackedView& w, const ActI8View& x, const float* bias, float* y, int64_t ldy,
                    int64_t panel_begin, int64_t panel_end, float* scratch) {
  constexpr int kHalves = kPanelRows / V::kLanes;
  const PackedI8 product{w, x};
  const int64_t groups = product.groups;
  int64_t rows_at_once = kSecondLevelCodes / x.stride / kActRows * kActRows;
  if (rows_at_once < kActRows) rows_at_once = kActRows;
  for (int64_t begin = 0; begin < x.rows; begin += rows_at_once) {
    const int64_t end = begin + rows_at_once < x.rows ? begin + rows_at_once : x.rows;
    for (int64_t panel = panel_begin; panel < panel_end;) {
      const int64_t row = panel * kPanelRows;
      const int64_t panels = kWholePanels<V> && end - begin > kReadingRows && panel + 1 < panel_end ? 2 : 1;
      for (int half = 0; half < kHalves && !makes_factors<V>(end - begin); ++half) {
        for (int64_t group = 0; group < groups; ++group)
          group_factors<V, kBits>(w, panel, panel * groups, group, half,
                                  scratch + (half * groups + group) * 2 * V::kLanes);
      }
      for (int64_t i = begin; i < end; i += kActRows) {
        const int rows = static_cast<int>(end - i < kActRows ? end - i : kActRows);
        if constexpr (kWholePanels<V>) {
          if (panels == 2 && rows > kReadingRows) {
            const int64_t left = w.format.n - row - kPanelRows, valid = left < kPanelRows ? left : kPanelRows;
            const typename V::F start[] = {load_bias<V>(bias, row, kPanelRows),
                                           load_bias<V>(bias, row + kPanelRows, valid)};
            packed_i8_rows<V, kBits, 2>(rows, product, panel, 0, nullptr, i, start, y + i * ldy + row, ldy,
                                        valid);
            continue;
          }
        }
        for_each_half<V>(w.format, panel, panel + panels, [&](int64_t p, int half, int64_t r, int64_t valid) {
          packed_i8_rows<V, kBits, 1>(rows, product, p, half, scratch + half * groups * 2 * V::kLanes, i,
                                      {load_bias<V>(bias, r, valid)}, y + i * ldy + r, ldy, valid);
        });
      }
      panel += panels;
    }
  }
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
