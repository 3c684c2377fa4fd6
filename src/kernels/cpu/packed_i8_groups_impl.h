// Products with int8 activations where a group is one block of them (packed_i8_impl.h has those of any
// group).
#pragma once

#include <cstdint>

#include "kernels/cpu/packed_i8_stream_impl.h"

namespace nibble {
namespace {

// How packed_i8_groups reads scales and zero points: as the format says, or in the commonest two ways.
enum class Factors { kAny, kF16WithNibbles, kF16Symmetric };

// What packed_i8_tile computes where a group is a block of `pieces` times kSegments segments, without its
// loops in loops, which cost a row about as much as the products do. Of one segment (and one piece) every
// total stays in a register, so that eight rows are as well served.
template <class V, int kBits, int kRows, int kPanels, int kSegments, Factors kFactors>
void packed_i8_groups(const PackedI8& product, int64_t pieces, int64_t panel, int half, int64_t first,
                      const typename V::F (&start)[kPanels], float* y, int64_t ldy, int64_t valid) {
  const PackedView& w = product.w;
  ActI8Row acts = product.x.row(first, product.blocks);
  CodeStream<V, kBits> streams[kPanels];
  typename V::F total[kPanels][kRows], scale[kPanels], zero[kPanels];
  NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
    streams[p] = {product, panel + p, half, first + kRows >= product.x.rows ? kPanels : 0};
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) total[p][r] = start[p];
  }
  const typename V::F middle = V::set(static_cast<float>(w.format.middle()));
  for (int64_t group = 0; group < product.groups; ++group) {
    NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
      const int64_t first_group = (panel + p) * product.groups, at = first_group + group;
      if constexpr (kFactors == Factors::kAny) {
        scale[p] = load_scales<V>(w, panel + p, first_group, group, half);
        zero[p] = V::to_float(load_zeros<V, kBits>(w, at, half));
      } else {
        scale[p] = V::load_f16(static_cast<const uint16_t*>(w.scales) + at * kPanelRows + half * 8);
        zero[p] = middle;
        if constexpr (kFactors == Factors::kF16WithNibbles)
          zero[p] = V::to_float(V::load_zero_nibbles(w.zeros + at * 8, half));
      }
    }
    // A row's dots of the next segment, from 0.
    typename V::I codes[kPanels][kActSegment / 4], dot[kPanels];
    const auto next_segment = [&] {
      NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
        streams[p].ask_ahead();
        streams[p].next(codes[p]);
      }
    };
    const auto multiply = [&](int r) {
      if constexpr (kPanels == 2) {
        V::dot16_of_two(dot, codes[0], codes[1], acts.codes + r * kActSegment);
      } else {
        dot[0] = V::template dot16<kBits>(V::izero(), codes[0], acts.codes + r * kActSegment);
      }
    };
    const auto of_zeros = [&](int p, int r) { return V::fnma(zero[p], V::set(acts.sums[r]), V::zero()); };
    if constexpr (kSegments == 1) {
      next_segment();
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
        multiply(r);
        NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
          const typename V::F sum = V::fma(V::to_float(dot[p]), V::set(acts.scales[r]), of_zeros(p, r));
          total[p][r] = V::fma(scale[p], sum, total[p][r]);
        }
      }
      acts.codes += kRows * kActSegment, acts.scales += kRows;
    } else {
      static_assert(kPanels == 1);
      typename V::F sum[kRows];
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) sum[r] = of_zeros(0, r);
      for (int64_t piece = 0; piece < pieces && streams[0].left > 0; ++piece) {
        NIBBLE_UNROLL for (int s = 0; s < kSegments; ++s) {
          if (s > 0 && streams[0].left <= 0) break;
          next_segment();
          NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) {
            multiply(r);
            sum[r] = V::fma(V::to_float(dot[0]), V::set(acts.scales[r]), sum[r]);
          }
          acts.codes += kRows * kActSegment, acts.scales += kRows;
        }
      }
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) total[0][r] = V::fma(scale[0], sum[r], total[0][r]);
    }
    acts.sums += kRows;
  }
  NIBBLE_UNROLL for (int p = 0; p < kPanels; ++p) {
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r)
        V::store(y + r * ldy + p * kPanelRows, total[p][r], p + 1 < kPanels ? V::kLanes : valid);
  }
}

template <class V, int kBits, int kRows, int kPanels, int kSegments, class... Args>
void packed_i8_groups_of(const PackedI8& product, const Args&... args) {
  const PackedFormat& f = product.w.format;
  const bool half_scales = f.scale_type == ScaleType::kF16;
  const auto run = half_scales && f.symmetric
                       ? packed_i8_groups<V, kBits, kRows, kPanels, kSegments, Factors::kF16Symmetric>
                   : half_scales && f.zero_bytes_per_group() == 8
                       ? packed_i8_groups<V, kBits, kRows, kPanels, kSegments, Factors::kF16WithNibbles>
                       : packed_i8_groups<V, kBits, kRows, kPanels, kSegments, Factors::kAny>;
  run(product, args...);
}

}  // namespace
}  // namespace nibble
