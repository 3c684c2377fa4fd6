// Attention by matrix tiles: rows of queries against one block of keys, a step of an online softmax.
//
// Everything is kept as the unit wants it, in steps of 256 words: of a left factor [16 rows][16 pairs], of a
// right one [16 pairs][16 columns]. Pair p of a step holds its inputs p and p + 16, on both sides, so that
// vectors need no shuffling. Queries and keys are two bf16 parts each, high + low, which is 16 bits of each
// value (all of fp16's); scores are three of the four products. Weights and values are rounded to bf16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/cpu/elementwise_impl.h"
#include "kernels/cpu/tiles_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int64_t kKeyPanels = kAttentionKeys / kTileRows;
constexpr int64_t kKeySteps = kAttentionKeys / kStepInputs;

inline int64_t panels_of(int64_t columns) { return (columns + kTileRows - 1) / kTileRows; }

// A step of a row of n values from `first` on: 16 words of the high parts, and of what they leave.
template <class T, class V>
void split_step(const float* from, int64_t first, int64_t n, uint32_t* high, uint32_t* low) {
  NIBBLE_UNROLL for (int lane = 0; lane < kTileRows; lane += V::kLanes) {
    const typename V::F a = part_of_row<V>(from, first + lane, n),
                        b = part_of_row<V>(from, first + kTileRows + lane, n);
    const typename V::I word = T::pair(a, b);
    V::istore(high + lane, word);
    const typename V::F a_high = V::as_float(V::template shl<16>(word)),
                        b_high = V::as_float(V::iand(word, V::iset(static_cast<int32_t>(0xffff0000))));
    V::istore(low + lane, T::pair(V::sub(a, a_high), V::sub(b, b_high)));
  }
}

// queries: tiles of [steps][high, low][16 rows][16].
template <class T, class V>
void tile_query(const float* q, int64_t head_dim, int64_t row, uint32_t* queries) {
  const int64_t steps = steps_of(head_dim), in = row % kTileRows;
  uint32_t* to = queries + (row - in) / kTileRows * steps * 2 * kStepWords + in * kTileRows;
  for (int64_t step = 0; step < steps; ++step, to += 2 * kStepWords)
    split_step<T, V>(q, step * kStepInputs, head_dim, to, to + kStepWords);
}

// [high, low][panels of keys][steps] of right factors.
template <class T, class V>
void key_steps(const float* keys, int64_t count, int64_t head_dim, uint32_t* to) {
  alignas(64) uint32_t high[kStepWords], low[kStepWords];
  const int64_t steps = steps_of(head_dim), parts = kKeyPanels * steps * kStepWords;
  for (int64_t first = 0; first < count; first += kTileRows) {
    const int64_t here = std::min<int64_t>(kTileRows, count - first);
    for (int64_t step = 0; step < steps; ++step, to += kStepWords) {
      for (int64_t r = 0; r < here; ++r) {
        split_step<T, V>(keys + (first + r) * head_dim, step * kStepInputs, head_dim, high + r * kTileRows,
                         low + r * kTileRows);
      }
      T::pairs_of_rows(reinterpret_cast<const uint16_t*>(high), kStepInputs, here, kStepInputs, to);
      T::pairs_of_rows(reinterpret_cast<const uint16_t*>(low), kStepInputs, here, kStepInputs, to + parts);
    }
  }
}

// [panels of head_dim][steps of keys] of right factors.
template <class T, class V>
void value_steps(const float* values, int64_t count, int64_t head_dim, uint32_t* to) {
  const auto part = [&](int64_t key, int64_t column) {
    return key < count ? part_of_row<V>(values + key * head_dim, column, head_dim) : V::zero();
  };
  for (int64_t column = 0; column < head_dim; column += kTileRows, to += kKeySteps * kStepWords) {
    for (int64_t key = 0; key < count; key += kStepInputs) {
      uint32_t* const step = to + key / kStepInputs * kStepWords;
      for (int64_t p = 0; p < kTileRows; ++p) {
        NIBBLE_UNROLL for (int lane = 0; lane < kTileRows; lane += V::kLanes) {
          V::istore(step + p * kTileRows + lane,
                    T::pair(part(key + p, column + lane), part(key + kTileRows + p, column + lane)));
        }
      }
    }
  }
}

// Sums kPanel … += the tile kX times as many right factors, `apart` words apart.
template <class T, int kX, size_t... kPanel>
void dot_panels(const uint32_t* w, int64_t apart, std::index_sequence<kPanel...>) {
  ((T::template load<6 + kPanel % 2>(w + kPanel * static_cast<size_t>(apart), 64),
    T::template dot<kPanel, kX, 6 + kPanel % 2>()),
   ...);
}

// scores [16, kAttentionKeys], of the panels of keys.
template <class T, size_t... kPanel>
void score_panels(const uint32_t* queries, const uint32_t* keys, int64_t steps, float* scores,
                  std::index_sequence<kPanel...> panels) {
  (T::template zero<kPanel>(), ...);
  const int64_t parts = kKeyPanels * steps * kStepWords, apart = steps * kStepWords;
  for (int64_t step = 0; step < steps; ++step, queries += 2 * kStepWords, keys += kStepWords) {
    T::template load<4>(queries, 64);
    T::template load<5>(queries + kStepWords, 64);
    dot_panels<T, 4>(keys, apart, panels);
    dot_panels<T, 5>(keys, apart, panels);
    dot_panels<T, 4>(keys + parts, apart, panels);
  }
  (T::template store<kPanel>(scores + kPanel * kTileRows, kAttentionKeys * sizeof(float)), ...);
}

// sums [16, … ld] += weights · values, of panels of head_dim.
template <class T, size_t... kPanel>
void add_values(const uint32_t* weights, const uint32_t* values, int64_t steps, float* sums, int64_t ld,
                std::index_sequence<kPanel...> panels) {
  const int64_t row_bytes = ld * static_cast<int64_t>(sizeof(float));
  (T::template load<kPanel>(sums + kPanel * kTileRows, row_bytes), ...);
  for (int64_t step = 0; step < steps; ++step) {
    T::template load<4>(weights + step * kStepWords, 64);
    dot_panels<T, 4>(values + step * kStepWords, kKeySteps * kStepWords, panels);
  }
  (T::template store<kPanel>(sums + kPanel * kTileRows, row_bytes), ...);
}

// body(index_sequence) of so many panels, 1 to 4.
template <class Body>
void with_panels(int64_t count, const Body& body) {
  count == 1   ? body(std::make_index_sequence<1>())
  : count == 2 ? body(std::make_index_sequence<2>())
  : count == 3 ? body(std::make_index_sequence<3>())
               : body(std::make_index_sequence<4>());
}

// Scores of 16 rows -> their weights as left factors, [steps of keys]; what the rows had so far shrinks to
// their new largest score. Row r sees seen[r] keys of the block.
template <class T, class V>
void soften(float* scores, const int64_t* seen, int64_t steps, float* top, float* totals, float* sums,
            int64_t ld, uint32_t* weights) {
  alignas(64) float largest[kTileRows], shrink[kTileRows];
  const int64_t keys = steps * kStepInputs;
  for (int64_t r = 0; r < kTileRows; ++r) {
    float* const row = scores + r * kAttentionKeys;
    for (int64_t key = seen[r]; key < keys; ++key) row[key] = -__builtin_inff();
    largest[r] = max_of<V>(row, keys);
  }
  for (int64_t r = 0; r < kTileRows; r += V::kLanes) {
    const typename V::F before = V::load(top + r), now = V::max(before, V::load(largest + r));
    V::store(shrink + r, exp_of<V>(V::sub(before, now)));
    V::store(top + r, now);
  }
  for (int64_t r = 0; r < kTileRows; ++r) {
    const float* const row = scores + r * kAttentionKeys;
    const typename V::F most = V::set(top[r]);
    typename V::F sum = V::mul(V::load(totals + r * kTotalParts), V::set(shrink[r]));
    for (int64_t step = 0; step < steps; ++step) {
      NIBBLE_UNROLL for (int lane = 0; lane < kTileRows; lane += V::kLanes) {
        const float* const from = row + step * kStepInputs + lane;
        const typename V::F a = exp_of<V>(V::sub(V::load(from), most)),
                            b = exp_of<V>(V::sub(V::load(from + kTileRows), most));
        sum = V::add(sum, V::add(a, b));
        V::istore(weights + step * kStepWords + r * kTileRows + lane, T::pair(a, b));
      }
    }
    V::store(totals + r * kTotalParts, sum);
    if (shrink[r] == 1.0f) continue;
    for (int64_t c = 0; c < ld; c += V::kLanes)
      V::store(sums + r * ld + c, V::mul(V::load(sums + r * ld + c), V::set(shrink[r])));
  }
}

template <class T, class V>
void attend_tiles(const AttentionTiles& t, const float* keys, const float* values, int64_t count,
                  int64_t visible) {
  const int64_t dim_steps = steps_of(t.head_dim), dim_panels = panels_of(t.head_dim), ld = t.sums_stride();
  const int64_t key_panels = panels_of(count), steps = steps_of(count);
  uint32_t* const k = t.scratch;
  uint32_t* const v = k + 2 * kKeyPanels * dim_steps * kStepWords;
  uint32_t* const weights = v + dim_panels * kKeySteps * kStepWords;
  float* const scores = reinterpret_cast<float*>(weights + kAttentionTilesAtOnce * kKeySteps * kStepWords);
  key_steps<T, V>(keys, count, t.head_dim, k);
  value_steps<T, V>(values, count, t.head_dim, v);
  T::configure(kTileRows, kTileRows);
  const int64_t blocks = panels_of(t.rows);
  for (int64_t first = 0; first < blocks; first += kAttentionTilesAtOnce) {
    const int64_t here = std::min(kAttentionTilesAtOnce, blocks - first);
    for (int64_t i = 0; i < here; ++i) {
      with_panels(key_panels, [&](auto panels) {
        score_panels<T>(t.queries + (first + i) * dim_steps * 2 * kStepWords, k, dim_steps,
                        scores + i * kTileRows * kAttentionKeys, panels);
      });
    }
    for (int64_t i = 0; i < here; ++i) {
      const int64_t row = (first + i) * kTileRows;
      int64_t seen[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r)
        seen[r] = std::clamp<int64_t>(visible + (row + r) / t.repeats, 0, count);
      soften<T, V>(scores + i * kTileRows * kAttentionKeys, seen, steps, t.top + row,
                   t.totals + row * kTotalParts, t.sums + row * ld, ld, weights + i * kKeySteps * kStepWords);
    }
    for (int64_t i = 0; i < here; ++i) {
      for (int64_t panel = 0; panel < dim_panels; panel += 4) {
        with_panels(std::min<int64_t>(dim_panels - panel, 4), [&](auto panels) {
          add_values<T>(weights + i * kKeySteps * kStepWords, v + panel * kKeySteps * kStepWords, steps,
                        t.sums + (first + i) * kTileRows * ld + panel * kTileRows, ld, panels);
        });
      }
    }
  }
  T::release();
}

}  // namespace
}  // namespace nibble
