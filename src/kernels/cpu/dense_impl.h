// y[m, n] = x[m, k] · w[n, k]ᵀ for weights as they lie in the checkpoint, vectors along k.
//
// A tile is up to V::kMaxRows rows of x times 4 rows of w. k is cut at fixed places so that a
// block of w stays in the first-level cache; a sum is always made in the same order, whatever
// the tile, so a row's result does not depend on m. 16-bit weights of a block are widened once for all rows
// of x.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/unroll.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int64_t kBlockBytes = 2048;             // of one row of x
constexpr int64_t kSecondLevelBytes = 192 << 10;  // of x: few rows, or a block's columns of the rows in hand
constexpr int64_t kWideningRows = 12;             // of x for which widening a block of w pays

// How one vector's worth of products is loaded and summed: float32 sums of x · w.
template <class V>
struct DotF32 {
  using X = float;
  using W = float;
  using Acc = typename V::F;
  using Reg = typename V::F;
  static constexpr int kStep = V::kLanes;
  static Acc zero() { return V::zero(); }
  static Reg load_x(const X* p) { return V::load(p); }
  static Reg load_x(const X* p, int64_t n) { return V::load(p, n); }
  static Reg load_w(const W* p) { return V::load(p); }
  static Reg load_w(const W* p, int64_t n) { return V::load(p, n); }
  static Acc mac(Acc acc, Reg x, Reg w) { return V::fma(x, w, acc); }
};
template <class V>
struct DotBf16 : DotF32<V> {
  using W = uint16_t;
  static typename V::F load_w(const W* p) { return V::load_bf16(p); }
  static typename V::F load_w(const W* p, int64_t n) { return V::load_bf16(p, n); }
};
template <class V>
struct DotF16 : DotF32<V> {
  using W = uint16_t;
  static typename V::F load_w(const W* p) { return V::load_f16(p); }
  static typename V::F load_w(const W* p, int64_t n) { return V::load_f16(p, n); }
};

// out[r][0…3] = dot of x row r and w row 0…3 over `count` elements. kAhead: asks memory for the next rows of
// w, which lie `ahead` elements further on.
template <class V, class D, bool kAhead, int kRows>
inline void dense_tile(const typename D::W* const w[4], const typename D::X* x, int64_t ldx, int64_t count,
                       int64_t ahead, float out[][4]) {
  typename D::Acc acc[kRows][4];
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) NIBBLE_UNROLL for (int j = 0; j < 4; ++j) acc[r][j] =
      D::zero();
  const int64_t whole = count / D::kStep * D::kStep;
  for (int64_t c = 0; c < whole; c += D::kStep) {
    if constexpr (kAhead) {
      constexpr int64_t kLine = 64 / sizeof(typename D::W), kLines = 4 * D::kStep / kLine;
      NIBBLE_UNROLL for (int64_t i = 0; i < kLines; ++i) {
        __builtin_prefetch(w[(c / D::kStep * kLines + i) % 4] + c / kLine * kLine + ahead, 0, 2);
      }
    }
    typename D::Reg xs[kRows];
    NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) xs[r] = D::load_x(x + r * ldx + c);
    NIBBLE_UNROLL for (int j = 0; j < 4; ++j) {
      const typename D::Reg ws = D::load_w(w[j] + c);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) acc[r][j] = D::mac(acc[r][j], xs[r], ws);
    }
  }
  if (whole < count) {
    NIBBLE_UNROLL for (int j = 0; j < 4; ++j) {
      const typename D::Reg ws = D::load_w(w[j] + whole, count - whole);
      NIBBLE_UNROLL for (int r = 0; r < kRows; ++r) acc[r][j] =
          D::mac(acc[r][j], D::load_x(x + r * ldx + whole, count - whole), ws);
    }
  }
  NIBBLE_UNROLL for (int r = 0; r < kRows; ++r)
      _mm_storeu_ps(out[r], V::reduce(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
}

template <class V, class D, bool kAhead, int kRows = V::kMaxRows>
inline void dense_rows(int rows, const typename D::W* const w[4], const typename D::X* x, int64_t ldx,
                       int64_t count, int64_t ahead, float out[][4]) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return dense_rows<V, D, kAhead, kRows - 1>(rows, w, x, ldx, count, ahead, out);
  }
  dense_tile<V, D, kAhead, kRows>(w, x, ldx, count, ahead, out);
}

template <class V, class D>
void dense_linear(const DenseView& weight, const typename D::X* x, int64_t ldx, const float* bias, float* y,
                  int64_t ldy, int64_t m, int64_t n_begin, int64_t n_end) {
  using W = typename D::W;
  const W* weights = static_cast<const W*>(weight.data);
  const int64_t k = weight.k;
  constexpr int64_t kBlock = kBlockBytes / static_cast<int64_t>(sizeof(typename D::X));
  constexpr int64_t kRowsAtOnce = kSecondLevelBytes / kBlockBytes / V::kMaxRows * V::kMaxRows;
  // Whether x stays in the second-level cache, so that w is read in the order of memory, and once.
  const bool few = m * k * static_cast<int64_t>(sizeof(typename D::X)) <= kSecondLevelBytes;
  // Rows [m0, m1) of x by four rows of w as they come (kAhead: and lie in memory) or widened, `count` columns
  // from c.
  const auto products = [&]<class T, bool kAhead>(T, const typename T::W* const w[4], int64_t c,
                                                  int64_t count, int64_t n, int valid, int64_t m0, int64_t m1,
                                                  std::bool_constant<kAhead>) {
    for (int64_t i = m0; i < m1; i += V::kMaxRows) {
      const int rows = static_cast<int>(m1 - i < V::kMaxRows ? m1 - i : V::kMaxRows);
      float out[V::kMaxRows][4];
      const auto make = i == 0 && few ? dense_rows<V, T, kAhead> : dense_rows<V, T, false>;
      make(rows, w, x + i * ldx + c, ldx, count, 4 * k, out);
      for (int r = 0; r < rows; ++r) {
        float* to = y + (i + r) * ldy + n;
        if (valid == 4) {
          const __m128 before = c > 0 ? _mm_loadu_ps(to) : bias ? _mm_loadu_ps(bias + n) : _mm_setzero_ps();
          _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(out[r]), before));
        } else {
          for (int j = 0; j < valid; ++j) to[j] = out[r][j] + (c > 0 ? to[j] : bias ? bias[n + j] : 0.0f);
        }
      }
    }
  };
  // Columns [c, c + kBlock) of four rows of w by rows [m0, m1) of x.
  const auto tile = [&](int64_t c, int64_t n, int64_t m0, int64_t m1) {
    const int64_t count = k - c < kBlock ? k - c : kBlock;
    const int valid = static_cast<int>(n_end - n < 4 ? n_end - n : 4);
    const W* w[4];
    NIBBLE_UNROLL for (int j = 0; j < 4; ++j) w[j] = weights + (n + (j < valid ? j : valid - 1)) * k + c;
    if constexpr (sizeof(W) < sizeof(typename D::X)) {
      if (m1 - m0 >= kWideningRows) {
        alignas(64) float wide[4][kBlock];
        for (int j = 0; j < 4; ++j) {
          for (int64_t i = 0; i < count; i += D::kStep) {
            const int64_t left = count - i;
            __builtin_prefetch(w[j] + i + 4 * k, 0, 2);
            V::store(wide[j] + i, left < D::kStep ? D::load_w(w[j] + i, left) : D::load_w(w[j] + i));
          }
        }
        const float* const rows[4] = {wide[0], wide[1], wide[2], wide[3]};
        return products(DotF32<V>{}, rows, c, count, n, valid, m0, m1, std::false_type{});
      }
    }
    products(D{}, w, c, count, n, valid, m0, m1, std::true_type{});
  };
  if (few) {
    for (int64_t n = n_begin; n < n_end; n += 4) {
      for (int64_t c = 0; c < k; c += kBlock) tile(c, n, 0, m);
    }
    return;
  }
  for (int64_t m0 = 0; m0 < m; m0 += kRowsAtOnce) {
    const int64_t m1 = m0 + kRowsAtOnce < m ? m0 + kRowsAtOnce : m;
    for (int64_t c = 0; c < k; c += kBlock) {
      for (int64_t n = n_begin; n < n_end; n += 4) tile(c, n, m0, m1);
    }
  }
}

}  // namespace
}  // namespace nibble
