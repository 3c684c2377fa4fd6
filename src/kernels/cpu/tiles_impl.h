// Products by matrix tiles (AMX): bf16 rows of x times weights in bf16, dense ones as they are and packed
// ones rounded to it.
//
// A step is 32 inputs of the 16 rows of a panel as the unit wants them, [16 pairs of inputs][16 rows][2];
// steps are made of the weights in scratch and multiplied by 16 or 32 rows of x. The sums of a piece of a row
// come from y and go there, at first from the bias. One row of x goes the same way as a thousand, so its
// result is the same, too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/bf16_rows.h"
#include "kernels/cpu/packed_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr int kTileRows = kBf16TileRows;                            // of x in a tile
constexpr int64_t kStepInputs = kBf16TileInputs, kStepWords = 256;  // a word: two inputs of a row
constexpr int64_t kFewRows = 2 * kTileRows;  // up to here a weight is multiplied once after it was read
// At most, whose steps are in scratch at a time: the first-level cache's. Where sums are copied, too, fewer
// and longer pieces are faster.
constexpr int64_t kPieceInputs = 640, kCopiedPieceInputs = 2 * kPieceInputs;
constexpr int64_t kRowsInCache = 512;  // of x, of so many inputs: the second-level cache's

template <class V>
constexpr int kHalves = kPanelRows / V::kLanes;

inline int64_t steps_of(int64_t inputs) { return (inputs + kStepInputs - 1) / kStepInputs; }

// Floats from + first … of a row of n, zeros behind.
template <class V>
typename V::F part_of_row(const float* from, int64_t first, int64_t n) {
  const int64_t valid = std::clamp<int64_t>(n - first, 0, V::kLanes);
  return valid == V::kLanes ? V::load(from + first) : valid > 0 ? V::load(from + first, valid) : V::zero();
}

// scale · (code − zero) of the codes in byte kByte of each lane. A code in the highest bits of a mantissa is
// 1 + code/256, so that one product and one sum make the value of it: 256·scale · (1 + code/256) −
// (256 + zero)·scale, exact for scales of 15 bits and less.
template <class V>
struct ValuesOfShortScales {
  typename V::F scale, rest;

  ValuesOfShortScales() = default;
  ValuesOfShortScales(typename V::F s, typename V::F zero)
      : scale(V::mul(s, V::set(256.0f))), rest(V::mul(s, V::add(zero, V::set(256.0f)))) {}
  template <int kByte>
  typename V::F of(typename V::I codes) const {
    constexpr int kUp = 15 - 8 * kByte;
    typename V::I mantissa;
    if constexpr (kUp > 0) {
      mantissa = V::template shl<kUp>(codes);
    } else {
      mantissa = V::template shr<-kUp>(codes);
    }
    const typename V::I one_and_code = V::ior(V::iand(mantissa, V::iset(0x7f8000)), V::iset(0x3f800000));
    return V::fms(scale, V::as_float(one_and_code), rest);
  }
};
template <class V>
struct ValuesOfLongScales {
  typename V::F scale, zero;

  template <int kByte>
  typename V::F of(typename V::I codes) const {
    const typename V::I code = V::iand(V::template shr<8 * kByte>(codes), V::iset(255));
    return V::mul(scale, V::sub(V::to_float(code), zero));
  }
};

// Packed weights: scale · (code − zero), rounded to bf16.
template <class T, class V, int kBits>
struct PackedSteps {
  const PackedView& w;

  int64_t inputs() const { return w.format.k; }
  int64_t rows() const { return w.format.n; }

  // Inputs [begin, end) of a panel, zeros behind up to a whole step.
  void make(int64_t panel, int64_t begin, int64_t end, uint32_t* out) const {
    if (w.format.scale_type == ScaleType::kF32) {
      make_of<ValuesOfLongScales<V>>(panel, begin, end, out);
    } else {
      make_of<ValuesOfShortScales<V>>(panel, begin, end, out);
    }
  }

 private:
  template <class Values>
  void make_of(int64_t panel, int64_t begin, int64_t end, uint32_t* out) const {
    using C = Chunk<V, kBits>;
    const PackedFormat& f = w.format;
    const int64_t group = f.group(), panel_bytes = f.chunks() * C::kBytes;
    uint32_t* const behind = out + steps_of(end - begin) * kStepWords;
    const uint8_t* chunk = w.codes + panel * panel_bytes + begin / C::kInputs * C::kBytes;
    const int64_t first_group = panel * f.groups();
    for (int64_t from = begin, g = begin / group; from < end; ++g) {
      const int64_t to = std::min(end, (g + 1) * group);
      Values values[kHalves<V>];
      NIBBLE_UNROLL for (int half = 0; half < kHalves<V>; ++half) {
        values[half] = Values{load_scales<V>(w, panel, first_group, g, half),
                              V::to_float(load_zeros<V, kBits>(w, first_group + g, half))};
      }
      for (; from < to; from += C::kInputs, chunk += C::kBytes, out += C::kInputs / 2 * kTileRows) {
        NIBBLE_UNROLL for (int64_t at = 0; at < C::kBytes; at += 64) {
          __builtin_prefetch(chunk + 2 * panel_bytes + at, 0, 2);
        }
        NIBBLE_UNROLL for (int half = 0; half < kHalves<V>; ++half) {
          typename V::I codes[C::kVectors];
          C::load(chunk, half, codes);
          NIBBLE_UNROLL for (int i = 0; i < C::kVectors; ++i) {
            const Values& v = values[half];
            uint32_t* pairs = out + 2 * i * kTileRows + half * V::kLanes;
            V::istore(pairs, T::pair(v.template of<0>(codes[i]), v.template of<1>(codes[i])));
            V::istore(pairs + kTileRows, T::pair(v.template of<2>(codes[i]), v.template of<3>(codes[i])));
          }
        }
      }
    }
    if (out < behind) std::fill(out, behind, 0u);
  }
};

// Dense bf16 weights.
template <class T>
struct DenseSteps {
  const DenseView& w;

  int64_t inputs() const { return w.k; }
  int64_t rows() const { return w.n; }

  void make(int64_t panel, int64_t begin, int64_t end, uint32_t* out) const {
    const int64_t row = panel * kPanelRows, rows_here = std::min<int64_t>(kPanelRows, w.n - row);
    const uint16_t* from = static_cast<const uint16_t*>(w.data) + row * w.k;
    for (int64_t c = begin; c < end; c += kStepInputs, out += kStepWords) {
      // What the next two panels have here: the weights' way from memory must not pause.
      NIBBLE_UNROLL for (int r = 0; r < kPanelRows; ++r) {
        __builtin_prefetch(from + (2 * kPanelRows + r) * w.k + c, 0, 2);
      }
      T::pairs_of_rows(from + c, w.k, rows_here, std::min(kStepInputs, end - c), out);
    }
  }
};

// Where the sums of a block of rows of x and panels start, null: at 0, and where they go. A row's lie
// from_values or to_values behind those of the row before; from_values may be 0.
struct BlockSums {
  const float* from;
  int64_t from_values;
  float* to;
  int64_t to_values;
};

template <class T, int kSums>
void start_sums(const BlockSums& s, int64_t row, int64_t column) {
  if (s.from) {
    T::template load<kSums>(s.from + row * s.from_values + column,
                            s.from_values * static_cast<int64_t>(sizeof(float)));
  } else {
    T::template zero<kSums>();
  }
}

// Adds to the sums [16·kM][16·kN] `steps` tiles of 16 rows of x, of the next 16 rows `block` values behind,
// times kN panels, whose steps are in b, `panel_words` apart. The unit is configured for the rows.
template <class T, int kM, int kN>
void tiles_of_block(const uint16_t* x, int64_t block, const uint32_t* b, int64_t panel_words, int64_t steps,
                    const BlockSums& sums) {
  start_sums<T, 0>(sums, 0, 0);
  if constexpr (kN > 1) start_sums<T, 1>(sums, 0, kTileRows);
  if constexpr (kM > 1) start_sums<T, 2>(sums, kTileRows, 0);
  if constexpr (kM > 1 && kN > 1) start_sums<T, 3>(sums, kTileRows, kTileRows);
  for (int64_t step = 0; step < steps; ++step, x += kTileRows * kStepInputs, b += kStepWords) {
    // All loads before the products: where a neighbour shares the core the two do not overlap.
    T::template load_once<4>(x, 64);
    if constexpr (kM > 1) T::template load_once<5>(x + block, 64);
    T::template load<6>(b, 64);
    if constexpr (kN > 1) T::template load<7>(b + panel_words, 64);
    T::template dot<0, 4, 6>();
    if constexpr (kM > 1) T::template dot<2, 5, 6>();
    if constexpr (kN > 1) {
      T::template dot<1, 4, 7>();
      if constexpr (kM > 1) T::template dot<3, 5, 7>();
    }
  }
  const int64_t row_bytes = sums.to_values * static_cast<int64_t>(sizeof(float));
  float* const below = sums.to + kTileRows * sums.to_values;
  T::template store<0>(sums.to, row_bytes);
  if constexpr (kN > 1) T::template store<1>(sums.to + kTileRows, row_bytes);
  if constexpr (kM > 1) T::template store<2>(below, row_bytes);
  if constexpr (kM > 1 && kN > 1) T::template store<3>(below + kTileRows, row_bytes);
}

// Rows of `columns` floats into a block with kColumns in a row, zeros behind, or out of it.
template <class V, int kColumns>
void copy_in(const float* from, int64_t apart, int64_t rows, int64_t columns, float* block) {
  for (int64_t r = 0; r < rows; ++r, from += apart, block += kColumns) {
    NIBBLE_UNROLL for (int c = 0; c < kColumns; c += V::kLanes)
        V::store(block + c, part_of_row<V>(from, c, columns));
  }
}
template <class V, int kColumns>
void copy_out(const float* block, int64_t rows, int64_t columns, float* to, int64_t apart) {
  for (int64_t r = 0; r < rows; ++r, block += kColumns, to += apart) {
    NIBBLE_UNROLL for (int c = 0; c < kColumns; c += V::kLanes) {
      const typename V::F part = V::load(block + c);
      if (c + V::kLanes <= columns) {
        V::store(to + c, part);
      } else if (c < columns) {
        V::store(to + c, part, columns - c);
      }
    }
  }
}

template <class T, class V, class Steps>
struct TileProduct {
  const Steps& w;
  const uint16_t* x;  // tiles (bf16_rows.h)
  const float* bias;
  float* y;
  int64_t ldy, rows_begin, rows_end;  // of x
  uint32_t* scratch;
  int64_t configured = -1;

  // Whether rows of y begin at cache lines, if the first does.
  bool in_lines() const { return ldy % kTileRows == 0; }

  // y (+)= panels [panel, panel + kN), inputs [begin, end), for the rows of x.
  template <int kN>
  void work(int64_t panel, int64_t begin, int64_t end) {
    const int64_t steps = steps_of(end - begin), column = panel * kPanelRows;
    const int64_t columns = std::min<int64_t>(w.rows() - column, kN * kTileRows);
    for (int p = 0; p < kN; ++p) w.make(panel + p, begin, end, scratch + p * steps * kStepWords);
    if (columns == kN * kTileRows && in_lines()) {
      for (int64_t row = rows_begin; row < rows_end; row += kFewRows) {
        float* const to = y + row * ldy + column;
        multiply<kN>(
            row, begin, steps,
            begin > 0 ? BlockSums{to, ldy, to, ldy} : BlockSums{bias ? bias + column : nullptr, 0, to, ldy});
      }
    } else {
      work_beside<kN>(column, columns, begin, steps);
    }
  }

  // Tiles have no half columns, and where rows of y do not begin at cache lines they take nearly twice as
  // long to store. Sums then lie beside y; what a block left there is copied while the next one is
  // multiplied.
  template <int kN>
  void work_beside(int64_t column, int64_t columns, int64_t begin, int64_t steps) {
    constexpr int kColumns = kN * kTileRows;
    alignas(64) float blocks[2][kFewRows * kColumns], start[kColumns] = {};
    if (bias) copy_in<V, kColumns>(bias + column, 0, 1, columns, start);
    const auto rows_at = [&](int64_t row) { return std::min(kFewRows, rows_end - row); };
    const auto finish = [&](int64_t row, const float* block) {
      copy_out<V, kColumns>(block, rows_at(row), columns, y + row * ldy + column, ldy);
    };
    int64_t row = rows_begin;
    for (int now = 0; row < rows_end; row += kFewRows, now = 1 - now) {
      float* const block = blocks[now];
      if (begin > 0) copy_in<V, kColumns>(y + row * ldy + column, ldy, rows_at(row), columns, block);
      multiply<kN>(row, begin, steps,
                   begin > 0 ? BlockSums{block, kColumns, block, kColumns}
                             : BlockSums{bias ? start : nullptr, 0, block, kColumns});
      if (row > rows_begin) finish(row - kFewRows, blocks[1 - now]);
      if (row + kFewRows >= rows_end) finish(row, block);
    }
  }

  // Adds to a block's sums the products of its rows, from `row` on, and the steps in scratch.
  template <int kN>
  void multiply(int64_t row, int64_t begin, int64_t steps, const BlockSums& sums) {
    const int64_t rows = std::min(kFewRows, rows_end - row);
    if (rows != configured)
      T::configure(std::min<int64_t>(rows, kTileRows), std::max<int64_t>(rows - kTileRows, 1));
    configured = rows;
    const int64_t block = kTileRows * steps_of(w.inputs()) * kStepInputs;
    const uint16_t* tiles = x + row / kTileRows * block + begin * kTileRows;
    if (rows > kTileRows) {
      tiles_of_block<T, 2, kN>(tiles, block, scratch, steps * kStepWords, steps, sums);
    } else {
      tiles_of_block<T, 1, kN>(tiles, block, scratch, steps * kStepWords, steps, sums);
    }
  }

  void panels(int64_t panel_begin, int64_t panel_end, int64_t begin, int64_t end) {
    int64_t panel = panel_begin;
    for (; panel + 2 <= panel_end; panel += 2) work<2>(panel, begin, end);
    if (panel < panel_end) work<1>(panel, begin, end);
  }

  // The same cuts for any number of rows, so that sums are the same; pieces of the same length, so that none
  // loads and stores its sums for a few steps.
  void pieces(int64_t panel_begin, int64_t panel_end) {
    const int64_t longest = (in_lines() ? kPieceInputs : kCopiedPieceInputs) / kStepInputs;
    const int64_t steps = steps_of(w.inputs()), count = (steps + longest - 1) / longest;
    const int64_t inputs = (steps + count - 1) / count * kStepInputs;
    for (int64_t begin = 0; begin < w.inputs(); begin += inputs)
      panels(panel_begin, panel_end, begin, std::min(w.inputs(), begin + inputs));
  }
};

template <class T, class V, class Steps>
void multiply_by_tiles(const Steps& w, const uint16_t* x, const float* bias, float* y, int64_t ldy, int64_t m,
                       int64_t panel_begin, int64_t panel_end, uint32_t* scratch) {
  for (int64_t first = 0; first < m; first += kRowsInCache) {
    TileProduct<T, V, Steps> product{w, x, bias, y, ldy, first, std::min(m, first + kRowsInCache), scratch};
    const int64_t at_once =
        m <= kFewRows ? 2 : panel_end - panel_begin;  // few: weights in the order of memory
    for (int64_t panel = panel_begin; panel < panel_end; panel += at_once)
      product.pieces(panel, std::min(panel + at_once, panel_end));
  }
  T::release();
}

template <class T, class V, int kBits>
void packed_bf16_bits(const PackedView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy,
                      int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  multiply_by_tiles<T, V>(PackedSteps<T, V, kBits>{w}, x, bias, y, ldy, m, panel_begin, panel_end,
                          reinterpret_cast<uint32_t*>(scratch));
}

template <class T, class V>
void packed_bf16(const PackedView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy, int64_t m,
                 int64_t panel_begin, int64_t panel_end, float* scratch) {
  const auto run = w.format.bits == 2   ? packed_bf16_bits<T, V, 2>
                   : w.format.bits == 3 ? packed_bf16_bits<T, V, 3>
                   : w.format.bits == 4 ? packed_bf16_bits<T, V, 4>
                   : w.format.bits == 6 ? packed_bf16_bits<T, V, 6>
                                        : packed_bf16_bits<T, V, 8>;
  run(w, x, bias, y, ldy, m, panel_begin, panel_end, scratch);
}

// n_begin is a multiple of 16.
template <class T, class V>
void dense_by_tiles(const DenseView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy,
                    int64_t m, int64_t n_begin, int64_t n_end) {
  alignas(64) uint32_t scratch[2 * kCopiedPieceInputs / kStepInputs * kStepWords];
  const DenseView rows{w.dtype, w.data, n_end, w.k};
  multiply_by_tiles<T, V>(DenseSteps<T>{rows}, x, bias, y, ldy, m, n_begin / kPanelRows,
                          (n_end + kPanelRows - 1) / kPanelRows, scratch);
}

}  // namespace
}  // namespace nibble
