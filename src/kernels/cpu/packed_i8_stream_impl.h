// The codes of packed weights as products with int8 activations read them (packed_i8_impl.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/packed_impl.h"
#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

// The codes of a segment: `chunks` chunks of them (at most as many as a segment has), then zeros.
template <class V, int kBits>
NIBBLE_INLINE const uint8_t* load_segment(const uint8_t* chunk, int half, int64_t chunks,
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

// A product with int8 activations, with what would take a division for each panel to find.
struct PackedI8 {
  const PackedView& w;
  const ActI8View& x;
  int64_t chunks = w.format.chunks(), group = w.format.group(), groups = w.format.groups();
  int64_t blocks = x.blocks();
};

// The codes of a half panel, segment by segment. The last rows bring in their half's share of the next
// panel's codes, so that reading never pauses: with few rows the memory is the limit, and with up to eight a
// pause is still a third of the time. The rows before them ask for what they read anyway.
template <class V, int kBits>
struct CodeStream {
  using C = Chunk<V, kBits>;
  static constexpr int64_t kWhole = kActSegment / C::kInputs;  // chunks a segment
  static constexpr int64_t kShare = kWhole * C::kBytes / (kPanelRows / V::kLanes);
  const uint8_t *chunk, *ahead;
  int64_t left;  // chunks
  int half;

  CodeStream() = default;
  CodeStream(const PackedI8& product, int64_t panel, int h, int panels_ahead)
      : left(product.chunks), half(h) {
    const int64_t panel_bytes = left * C::kBytes;
    chunk = product.w.codes + panel * panel_bytes;
    ahead = chunk + panels_ahead * panel_bytes + half * panel_bytes / (kPanelRows / V::kLanes);
  }
  NIBBLE_INLINE void ask_ahead() {
    NIBBLE_UNROLL for (int64_t at = 0; at < kShare; at += 64) __builtin_prefetch(ahead + at, 0, 2);
    ahead += kShare;
  }
  void skip() { chunk += kWhole * C::kBytes, left -= kWhole; }
  NIBBLE_INLINE void next(typename V::I (&codes)[kActSegment / 4]) {
    chunk = left >= kWhole ? load_segment<V, kBits>(chunk, half, kWhole, codes)
                           : load_segment<V, kBits>(chunk, half, left, codes);
    left -= kWhole;
  }
};

}  // namespace
}  // namespace nibble
