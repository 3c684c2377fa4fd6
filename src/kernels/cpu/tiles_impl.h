// Products by matrix tiles (AMX): bf16 rows of x times weights, dense bf16 ones as they are and the codes of
// packed ones as integers, which bf16 holds exactly.
//
// A step is 32 inputs of the 16 rows of a panel as the unit wants them, [16 pairs of inputs][16 rows][2];
// steps are made of the weights in scratch and multiplied by 16 or 32 rows of x. The sums of a group leave
// the tiles once, for its scale. One row of x goes the same way as a thousand, so its result is the same,
// too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/packed_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int kTileRows = 16;                          // of x in a tile
constexpr int64_t kStepInputs = 32, kStepWords = 256;  // a word: two inputs of a row
constexpr int64_t kFewRows = 2 * kTileRows;  // up to here a weight is multiplied once after it was read
constexpr int64_t kFewInputs = 256;          // that are then in scratch at a time: the first-level cache's
constexpr int64_t kManyInputs = 1024;        // else: the second-level cache's
constexpr int64_t kRowsInCache = 512;        // of x, of so many inputs

inline int64_t steps_of(int64_t inputs) { return (inputs + kStepInputs - 1) / kStepInputs; }

// Packed weights. Inputs stand in the order of tile_rows, whose pairs are 0 2, 1 3 of every four.
template <class V, int kBits>
struct PackedSteps {
  // Codes below 128 become 128 + code by the bits alone.
  static constexpr float kAdded = kBits < 8 ? 128 : 0;

  const PackedView& w;
  const ActBf16View& x;

  int64_t inputs() const { return w.format.k; }
  int64_t rows() const { return w.format.n; }
  int64_t group() const { return w.format.group(); }
  int64_t groups() const { return w.format.groups(); }

  static typename V::I pairs(typename V::I codes) {
    if constexpr (kBits < 8) {
      return V::ior(V::iand(codes, V::iset(0x00ff00ff)), V::iset(0x43004300));
    } else {
      const typename V::I byte = V::iset(255);
      const typename V::I low = V::bits(V::to_float(V::iand(codes, byte)));
      const typename V::I high = V::bits(V::to_float(V::iand(V::template shr<16>(codes), byte)));
      return V::ior(V::template shr<16>(low), high);
    }
  }

  void make(int64_t panel, int64_t g, uint32_t* out) const {
    using C = Chunk<V, kBits>;
    constexpr int kHalves = kPanelRows / V::kLanes;
    const PackedFormat& f = w.format;
    const int64_t begin = g * group(), size = std::min(group(), f.k - begin),
                  panel_bytes = f.chunks() * C::kBytes;
    const int64_t there = (size + C::kInputs - 1) / C::kInputs;
    const int64_t wanted = steps_of(size) * (kStepInputs / C::kInputs);
    const uint8_t* chunk = w.codes + panel * panel_bytes + begin / C::kInputs * C::kBytes;
    for (int64_t c = 0; c < there; ++c, chunk += C::kBytes) {
      NIBBLE_UNROLL for (int64_t at = 0; at < C::kBytes; at += 64) {
        __builtin_prefetch(chunk + 2 * panel_bytes + at, 0, 2);
      }
      NIBBLE_UNROLL for (int half = 0; half < kHalves; ++half) {
        typename V::I codes[C::kVectors];
        C::load(chunk, half, codes);
        NIBBLE_UNROLL for (int i = 0; i < C::kVectors; ++i) {
          V::istore(out + half * V::kLanes, pairs(codes[i]));
          V::istore(out + kTileRows + half * V::kLanes, pairs(V::template shr<8>(codes[i])));
          out += 2 * kTileRows;
        }
        out -= 2 * kTileRows * C::kVectors;
      }
      out += 2 * kTileRows * C::kVectors;
    }
    std::fill_n(out, (wanted - there) * 2 * kTileRows * C::kVectors, 0u);
  }

  // totals += scale · (sums − (added + zero) · Σ x), for rows [first, first + count) of x.
  void add(int64_t panel, int64_t g, const float* sums, int64_t first, int64_t count, float* totals) const {
    NIBBLE_UNROLL for (int half = 0; half < kPanelRows / V::kLanes; ++half) {
      const typename V::F scale = load_scales<V>(w, panel * w.format.groups() + g, half);
      const typename V::F zero =
          V::add(V::to_float(load_zeros<V, kBits>(w, panel * w.format.groups() + g, half)), V::set(kAdded));
      const float* from = sums + half * V::kLanes;
      float* to = totals + half * V::kLanes;
      const float* of_x = x.sums + first * x.groups + g;
      for (int64_t r = 0; r < count; ++r, from += kTileRows, to += kTileRows, of_x += x.groups) {
        const typename V::F exact = V::fnma(zero, V::set(*of_x), V::load(from));
        V::store(to, V::fma(scale, exact, V::load(to)));
      }
    }
  }
};

// Dense bf16 weights; a group is a piece of a row, whose sums are added up in float32.
template <class T, class V>
struct DenseSteps {
  const DenseView& w;

  int64_t inputs() const { return w.k; }
  int64_t rows() const { return w.n; }
  int64_t group() const { return std::min(w.k, kManyInputs); }
  int64_t groups() const { return (w.k + group() - 1) / group(); }

  void make(int64_t panel, int64_t g, uint32_t* out) const {
    const int64_t row = panel * kPanelRows, rows_here = std::min<int64_t>(kPanelRows, w.n - row);
    const uint16_t* from = static_cast<const uint16_t*>(w.data) + row * w.k;
    const int64_t end = std::min(w.k, (g + 1) * group());
    for (int64_t c = g * group(); c < end; c += kStepInputs, out += kStepWords) {
      // What the next two panels have here: the weights' way from memory must not pause.
      NIBBLE_UNROLL for (int r = 0; r < kPanelRows; ++r) {
        __builtin_prefetch(from + (2 * kPanelRows + r) * w.k + c, 0, 2);
      }
      T::pairs_of_rows(from + c, w.k, rows_here, std::min(kStepInputs, end - c), out);
    }
  }

  void add(int64_t, int64_t, const float* sums, int64_t, int64_t count, float* totals) const {
    for (int64_t i = 0; i < count * kTileRows; i += V::kLanes)
      V::store(totals + i, V::add(V::load(totals + i), V::load(sums + i)));
  }
};

// Rows of x as the tiles load them.
struct TileInput {
  const uint16_t* x;
  int64_t ldx;
  int64_t readable;  // inputs of a row that may be read; what lies behind comes from `tail`
  alignas(64) uint16_t tail[kFewRows * kStepInputs];

  TileInput(const uint16_t* x_, int64_t ldx_, int64_t readable_) : x(x_), ldx(ldx_), readable(readable_) {}

  // The last, short step of rows [first, first + count), with zeros behind.
  void take_tail(int64_t first, int64_t count) {
    const int64_t begin = readable / kStepInputs * kStepInputs;
    if (begin == readable) return;
    std::fill_n(tail, kFewRows * kStepInputs, uint16_t{0});
    for (int64_t r = 0; r < count; ++r)
      std::copy_n(x + (first + r) * ldx + begin, readable - begin, tail + r * kStepInputs);
  }
};

// totals[kM][kN][16][16] += rows [row, row + rows) of x by groups [begin, end) of kN panels, whose steps are
// in b, `panel_words` apart. The unit is configured for the rows.
template <class T, int kM, int kN, class Steps>
void tiles_of_block(const Steps& w, const TileInput& in, const uint32_t* b, int64_t panel_words,
                    int64_t panel, int64_t begin, int64_t end, int64_t row, int64_t rows, float* totals) {
  constexpr int kTile = kTileRows * kTileRows, kTiles = kM * kN;
  // While a group is multiplied, the sums of the one in front are added: they must not be read right after
  // they left the tiles.
  alignas(64) float sums[2][kTiles * kTile];
  const auto add = [&](int64_t g) {
    for (int i = 0; i < kM; ++i) {
      const int64_t here = row + i * kTileRows, count = std::min<int64_t>(kTileRows, row + rows - here);
      for (int p = 0; p < kN; ++p) {
        const int at = (i * kN + p) * kTile;
        w.add(panel + p, g, sums[g % 2] + at, here, count, totals + at);
      }
    }
  };
  for (int64_t g = begin; g < end; ++g) {
    T::template zero<0>();
    if constexpr (kN > 1) T::template zero<1>();
    if constexpr (kM > 1) T::template zero<2>();
    if constexpr (kM > 1 && kN > 1) T::template zero<3>();
    const int64_t first = g * w.group(), last = std::min(w.inputs(), first + w.group());
    for (int64_t c = first; c < last; c += kStepInputs, b += kStepWords) {
      const bool whole = c + kStepInputs <= in.readable;
      const uint16_t* x = whole ? in.x + row * in.ldx + c : in.tail;
      const int64_t ldx = whole ? in.ldx : kStepInputs;
      T::template load<4>(x, ldx * 2);
      if constexpr (kM > 1) T::template load<5>(x + kTileRows * ldx, ldx * 2);
      T::template load<6>(b, 64);
      T::template dot<0, 4, 6>();
      if constexpr (kM > 1) T::template dot<2, 5, 6>();
      if constexpr (kN > 1) {
        T::template load<7>(b + panel_words, 64);
        T::template dot<1, 4, 7>();
        if constexpr (kM > 1) T::template dot<3, 5, 7>();
      }
    }
    if (g > begin) add(g - 1);
    float* out = sums[g % 2];
    T::template store<0>(out);
    if constexpr (kN > 1) T::template store<1>(out + kTile);
    if constexpr (kM > 1) T::template store<2>(out + kN * kTile);
    if constexpr (kM > 1 && kN > 1) T::template store<3>(out + (kN + 1) * kTile);
  }
  add(end - 1);
}

template <class T, class V, class Steps>
struct TileProduct {
  const Steps& w;
  TileInput in;
  const float* bias;
  float* y;
  int64_t ldy, rows_begin, rows_end;  // of x
  uint32_t* scratch;
  int64_t configured = -1;

  // Panels [panel, panel + kN) and groups [begin, end) for the rows of x.
  template <int kN>
  void work(int64_t panel, int64_t begin, int64_t end) {
    int64_t panel_words = 0;
    for (int p = 0; p < kN; ++p) {
      uint32_t* out = scratch + p * panel_words;
      for (int64_t g = begin; g < end; ++g) {
        w.make(panel + p, g, out);
        out += steps_of(std::min(w.group(), w.inputs() - g * w.group())) * kStepWords;
      }
      if (p == 0) panel_words = out - scratch;
    }
    for (int64_t row = rows_begin; row < rows_end; row += kFewRows) {
      const int64_t rows = std::min(kFewRows, rows_end - row);
      if (rows != configured)
        T::configure(std::min<int64_t>(rows, kTileRows), std::max<int64_t>(rows - kTileRows, 1));
      configured = rows;
      if (end == w.groups()) in.take_tail(row, rows);
      alignas(64) float totals[2 * kN * kTileRows * kTileRows];
      each_part<kN>(
          panel, row, rows,
          [&](float* total, float* to, int64_t column, int64_t valid) {
            V::store(total, begin > 0 ? V::load(to, valid) : load_bias<V>(bias, column, valid));
          },
          totals);
      if (rows > kTileRows) {
        tiles_of_block<T, 2, kN>(w, in, scratch, panel_words, panel, begin, end, row, rows, totals);
      } else {
        tiles_of_block<T, 1, kN>(w, in, scratch, panel_words, panel, begin, end, row, rows, totals);
      }
      each_part<kN>(
          panel, row, rows,
          [&](const float* total, float* to, int64_t, int64_t valid) { V::store(to, V::load(total), valid); },
          totals);
    }
  }

  // body(total, y, column, valid) for every vector of the block.
  template <int kN, class Body>
  void each_part(int64_t panel, int64_t row, int64_t rows, Body body, float* totals) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int p = 0; p < kN; ++p) {
        float* total = totals + ((r / kTileRows * kN + p) * kTileRows + r % kTileRows) * kTileRows;
        for (int64_t lane = 0; lane < kPanelRows; lane += V::kLanes) {
          const int64_t column = (panel + p) * kPanelRows + lane, left = w.rows() - column;
          if (left > 0)
            body(total + lane, y + (row + r) * ldy + column, column, std::min<int64_t>(left, V::kLanes));
        }
      }
    }
  }

  void panels(int64_t panel_begin, int64_t panel_end, int64_t begin, int64_t end) {
    int64_t panel = panel_begin;
    for (; panel + 2 <= panel_end; panel += 2) work<2>(panel, begin, end);
    if (panel < panel_end) work<1>(panel, begin, end);
  }

  // body(begin, end): as many groups as stay below the limit, at least one.
  template <class Body>
  void each_piece(int64_t limit, Body body) {
    const int64_t at_once = std::max<int64_t>(1, limit / w.group());
    for (int64_t g = 0; g < w.groups(); g += at_once) body(g, std::min(w.groups(), g + at_once));
  }
};

template <class T, class V, class Steps>
void multiply_by_tiles(const Steps& w, const uint16_t* x, int64_t ldx, int64_t readable, const float* bias,
                       float* y, int64_t ldy, int64_t m, int64_t panel_begin, int64_t panel_end,
                       uint32_t* scratch) {
  for (int64_t first = 0; first < m; first += kRowsInCache) {
    TileProduct<T, V, Steps> product{
        w, {x, ldx, readable}, bias, y, ldy, first, std::min(m, first + kRowsInCache), scratch};
    if (m <= kFewRows) {  // weights in the order of memory
      for (int64_t panel = panel_begin; panel < panel_end; panel += 2) {
        product.each_piece(kFewInputs, [&](int64_t begin, int64_t end) {
          product.panels(panel, std::min(panel + 2, panel_end), begin, end);
        });
      }
    } else {
      product.each_piece(kManyInputs, [&](int64_t begin, int64_t end) {
        product.panels(panel_begin, panel_end, begin, end);
      });
    }
  }
  T::release();
}

template <class T, class V, int kBits>
void packed_bf16_bits(const PackedView& w, const ActBf16View& x, const float* bias, float* y, int64_t ldy,
                      int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  multiply_by_tiles<T, V>(PackedSteps<V, kBits>{w, x}, x.values, x.stride, x.stride, bias, y, ldy, m,
                          panel_begin, panel_end, reinterpret_cast<uint32_t*>(scratch));
}

template <class T, class V>
void packed_bf16(const PackedView& w, const ActBf16View& x, const float* bias, float* y, int64_t ldy,
                 int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  const auto run = w.format.bits == 2   ? packed_bf16_bits<T, V, 2>
                   : w.format.bits == 3 ? packed_bf16_bits<T, V, 3>
                   : w.format.bits == 4 ? packed_bf16_bits<T, V, 4>
                   : w.format.bits == 6 ? packed_bf16_bits<T, V, 6>
                                        : packed_bf16_bits<T, V, 8>;
  run(w, x, bias, y, ldy, m, panel_begin, panel_end, scratch);
}

// n_begin is a multiple of 16.
template <class T, class V>
void dense_by_tiles(const DenseView& w, const uint16_t* x, int64_t ldx, const float* bias, float* y,
                    int64_t ldy, int64_t m, int64_t n_begin, int64_t n_end) {
  alignas(64) uint32_t scratch[2 * kManyInputs / kStepInputs * kStepWords];
  const DenseView rows{w.dtype, w.data, n_end, w.k};
  multiply_by_tiles<T, V>(DenseSteps<T, V>{rows}, x, ldx, w.k, bias, y, ldy, m, n_begin / kPanelRows,
                          (n_end + kPanelRows - 1) / kPanelRows, scratch);
}

// T::round_group writes the values of a group and returns their sum.
template <class T>
void tile_rows(const float* x, int64_t ldx, int64_t m, int64_t k, int64_t group, uint16_t* values,
               float* sums) {
  const int64_t stride = act_bf16_stride(k), groups = (k + group - 1) / group;
  for (int64_t r = 0; r < m; ++r) {
    const float* row = x + r * ldx;
    uint16_t* out = values + r * stride;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * group;
      sums[r * groups + g] = T::round_group(row + begin, std::min(group, k - begin), out + begin);
    }
    const int64_t written = (k + 15) / 16 * 16;
    std::fill(out + written, out + stride, uint16_t{0});
  }
}

}  // namespace
}  // namespace nibble
