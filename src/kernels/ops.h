// The table of operations: every kernel of the library, for one instruction set.
//
// Pointers are to float32 unless the type says otherwise; matrices are row-major with the stated
// leading dimension in elements. Outputs do not alias inputs unless a comment allows it. A result
// depends only on its own row's inputs, never on m, on the tile or on the number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/packed.h"

namespace nibble {

// A dense weight [n, k] as it lies in the checkpoint: F32, BF16 or F16.
struct DenseView {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  int64_t n = 0, k = 0;
};

// Rows of x up to which a linear waits for its weights rather than for arithmetic.
inline constexpr int kReadingRows = 2;

// Inputs that share a scale in int8 activations. Few, since the error of a segment grows with its
// largest value (docs/kernels.md has what 16, 32 and 64 cost); every weight group is a multiple of it.
inline constexpr int kActSegment = 16;
// The scales of a block are multiples of its unit, 1 to kActSteps of them: products of a block can be added
// up as integers, since 8 · 16 · 255 · 127 · 511 fits into 31 bits.
inline constexpr int kActBlock = 128, kActSteps = 511;
// Rows of x that a product takes at a time. Their int8 values lie together, so that it reads one stream.
inline constexpr int kActRows = 8;

inline int64_t act_i8_stride(int64_t k) { return (k + kActSegment - 1) / kActSegment * kActSegment; }
// Inputs of a block: at most kActBlock, and every weight group whole blocks.
inline int64_t act_i8_block(int64_t group, int64_t k) {
  if (group >= k) return kActBlock;
  int64_t block = group < kActBlock ? group : kActBlock;
  while (group % block != 0) block -= kActSegment;
  return block;
}

// A row of int8 activations, to be written: the values of the next segment lie `tile` segments on, its scale
// and step, and a block's unit, sum and count, `tile` places.
struct ActI8Row {
  int8_t* codes = nullptr;
  float* scales = nullptr;
  int32_t* steps = nullptr;
  float* units = nullptr;
  float* sums = nullptr;
  int32_t* counts = nullptr;
  int64_t tile = 1;
  int64_t block = kActBlock;
};

// Activations for one linear: symmetric int8, k padded with zeros to whole segments. Rows come in tiles of
// kActRows, the last one smaller; within a tile one segment (or block) of every row comes after the other. A
// table reads either steps, units and counts (KernelTable::int8_steps) or scales and sums; what it does not
// read may be null.
struct ActI8View {
  int8_t* codes = nullptr;    // tiles of [segments, rows of the tile, kActSegment]
  float* scales = nullptr;    // tiles of [segments, rows of the tile]: unit · step
  int32_t* steps = nullptr;   // likewise: the step, in both halves
  float* units = nullptr;     // tiles of [blocks, rows of the tile]
  float* sums = nullptr;      // likewise: Σ scale · code over the block's inputs
  int32_t* counts = nullptr;  // likewise: Σ step · code
  int64_t rows = 0;
  int64_t stride = 0;         // codes of a row, act_i8_stride
  int64_t block = kActBlock;  // inputs of a block, act_i8_block

  int64_t segments() const { return stride / kActSegment; }
  int64_t blocks() const { return (stride + block - 1) / block; }
  int64_t first_of_tile(int64_t row) const { return row / kActRows * kActRows; }
  int64_t tile(int64_t row) const {  // how many rows are in the row's tile
    const int64_t left = rows - first_of_tile(row);
    return left < kActRows ? left : kActRows;
  }
  ActI8Row row(int64_t i) const { return row(i, blocks()); }
  ActI8Row row(int64_t i, int64_t blocks_a_row) const {  // blocks(), a division that is not to be made again
    const int64_t first = first_of_tile(i), in = i - first;
    const int64_t scale = first * segments() + in, sum = first * blocks_a_row + in;
    const auto at = [](auto* of, int64_t place) { return of ? of + place : nullptr; };
    return {codes + first * stride + in * kActSegment,
            at(scales, scale),
            at(steps, scale),
            at(units, sum),
            at(sums, sum),
            at(counts, sum),
            tile(i),
            block};
  }
};

inline constexpr int kAttentionKeys = 64;  // positions in a block of keys; blocks start at multiples
// Times 16 rows that go through each stage together: what was just written cannot be loaded as a tile yet.
inline constexpr int64_t kAttentionTilesAtOnce = 2;
inline constexpr int kTotalParts = 16;  // of a row's total, a vector's lanes

// Rows of queries and what attention by tiles knows of them. There are all_rows() of them, whole tiles; those
// from `rows` on are computed like the others, and nobody reads them.
struct AttentionTiles {
  int64_t rows = 0, head_dim = 0;
  int64_t repeats = 1;          // rows that see as many keys
  uint32_t* queries = nullptr;  // query_words() of what tile_query makes
  float* sums = nullptr;        // [rows, sums_stride()]: Σ exp(score − top) · value, of the blocks so far
  float* top = nullptr;         // [rows]: the largest score so far, −inf at first
  float* totals = nullptr;      // [rows, kTotalParts]: what sums up to Σ exp(score − top)
  uint32_t* scratch = nullptr;  // scratch_words()

  int64_t all_rows() const { return (rows + 15) / 16 * 16; }
  int64_t sums_stride() const { return (head_dim + 15) / 16 * 16; }
  int64_t query_words() const { return all_rows() * ((head_dim + 31) / 32) * 32; }
  int64_t scratch_words() const {  // keys in two parts, values; weights and scores of the rows at a time
    return kAttentionKeys *
           ((head_dim + 31) / 32 * 32 + sums_stride() / 2 + kAttentionTilesAtOnce * (8 + 16));
  }
};

// What the linears compute with.
enum class Activations { kF32, kBF16, kI8 };

struct KernelTable {
  std::string_view name;  // "ref", "avx2", "avxvnni", "avx512", "amx"

  // y[m, rows n_begin…n_end) = x[m, k] · w[n, k]ᵀ (+ bias[n] where not null). y points at column 0.
  using DenseFn = void (*)(const DenseView& w, const float* x, int64_t ldx, const float* bias, float* y,
                           int64_t ldy, int64_t m, int64_t n_begin, int64_t n_end);
  DenseFn dense_f32 = nullptr;   // w F32
  DenseFn dense_bf16 = nullptr;  // w BF16, x float32: products exact in float32
  DenseFn dense_f16 = nullptr;   // w F16

  // The same with x rounded to BF16 (bf16_rows.h) and w BF16, sums in float32. Null where the processor has
  // no instruction for it; the caller then uses dense_bf16. n_begin is a multiple of 16.
  using DenseBf16Fn = void (*)(const DenseView& w, const uint16_t* x, const float* bias, float* y,
                               int64_t ldy, int64_t m, int64_t n_begin, int64_t n_end);
  DenseBf16Fn dense_bf16_bf16 = nullptr;
  bool bf16_pays = false;   // whether dense_bf16_bf16 is there and faster than dense_bf16
  bool bf16_tiles = false;  // how dense_bf16_bf16 and packed_bf16 want x: as tiles (bf16_rows.h)

  // y[m, 16·p … ) = x[m, k] · dequant(w)[n, k]ᵀ (+ bias) for panels p in [panel_begin, panel_end).
  // scratch: packed_scratch(k) floats of the calling thread.
  void (*packed_f32)(const PackedView& w, const float* x, int64_t ldx, const float* bias, float* y,
                     int64_t ldy, int64_t m, int64_t panel_begin, int64_t panel_end,
                     float* scratch) = nullptr;
  // The same with int8 activations: a block adds s_w · (Σ s_a · dot − zero · sum), with an int32 dot for
  // each segment; its sum in int32 by the steps or in float32 by the scales, the rest float32. scratch: as
  // for packed_f32.
  bool int8_steps = false;  // which of them packed_i8 reads
  void (*packed_i8)(const PackedView& w, const ActI8View& x, const float* bias, float* y, int64_t ldy,
                    int64_t panel_begin, int64_t panel_end, float* scratch) = nullptr;
  // With x rounded to bf16 (bf16_rows.h) and the weights' values too, sums in float32. Faster than packed_i8
  // for many rows, slower for few. Null where the processor has no tiles. scratch: as for packed_f32.
  void (*packed_bf16)(const PackedView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy,
                      int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) = nullptr;
  // k values as ActI8View says: step the least with which no code exceeds 127, round to nearest even. Fills
  // what is not null.
  void (*quantize_i8)(const float* x, int64_t k, const ActI8Row& row) = nullptr;
  // y[n] = x / scale, round to nearest even; returns scale = max|x|/127.
  float (*to_i8)(const float* x, int8_t* y, int64_t n) = nullptr;

  void (*to_bf16)(const float* x, uint16_t* y, int64_t n) = nullptr;  // round to nearest even
  void (*to_f16)(const float* x, uint16_t* y, int64_t n) = nullptr;   // round to nearest even
  void (*from_f16)(const uint16_t* x, float* y, int64_t n) = nullptr;
  void (*from_i8)(const int8_t* x, float scale, float* y, int64_t n) = nullptr;  // y = scale·x

  // y = x / rms(x) · weight; y may alias x. (Zhang & Sennrich 2019)
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t n, float eps) = nullptr;
  // y = (x − mean) / sqrt(var + eps) · weight + bias; y may alias x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float* y, int64_t n,
                     float eps) = nullptr;
  void (*add)(float* y, const float* x, int64_t n) = nullptr;                           // y += x
  void (*silu_mul)(const float* gate, const float* up, float* y, int64_t n) = nullptr;  // y may alias either
  void (*gelu_new)(const float* x, float* y, int64_t n) = nullptr;  // tanh form; y may alias x
  // x = exp(x − max), returns Σ. −inf gives 0.
  float (*exp_sum)(float* x, int64_t n, float max) = nullptr;
  float (*max)(const float* x, int64_t n) = nullptr;                              // n ≥ 1
  void (*scale_add)(float* y, float scale, const float* x, int64_t n) = nullptr;  // y = y·scale + x
  void (*axpy)(float* y, float a, const float* x, int64_t n) = nullptr;           // y += a·x
  // y[m, n] = weights[m, count] · rows[count, n], sums in the order of the rows.
  void (*weighted_sums)(const float* weights, int64_t ldw, int64_t m, const float* rows, int64_t count,
                        float* y, int64_t n) = nullptr;

  // Attention by tiles, null where the processor has none: row `row` of the queries, already scaled, and one
  // step of an online softmax over a block of keys and values [count ≤ kAttentionKeys, head_dim], of which
  // row r sees the first visible + r / repeats. Scores have errors of about 2^-16 of what is summed; weights
  // and values are rounded to bf16. A row's result does not depend on the others.
  void (*tile_query)(const float* q, int64_t head_dim, int64_t row, uint32_t* queries) = nullptr;
  void (*attend_tiles)(const AttentionTiles& rows, const float* keys, const float* values, int64_t count,
                       int64_t visible) = nullptr;

  // Products of columns of int16, the tiles of a Gram matrix. A panel is 16 columns, [pairs][16][2], two rows
  // after the other. out[panels][16, 16]: for every column of panel a and every column of `panels` panels
  // that lie one after the other in b the sum of the products of their values. The caller keeps the sums
  // within int32, which is exact.
  void (*products_i16)(const int16_t* a, const int16_t* b, int64_t panels, int64_t pairs,
                       int32_t* out) = nullptr;
  // The same in bf16 with sums in float32, where the processor has tiles, else null. A panel is 32 columns of
  // `steps` times 32 rows, kGramStep values a step. gram_step fills one step of it from x [rows ≤ 32, columns
  // ≤ 32], rounded to nearest even, zeros beyond both.
  void (*gram_step)(const float* x, int64_t ldx, int64_t rows, int64_t columns, uint16_t* panel, int64_t step,
                    int64_t steps) = nullptr;
  // y[rows ≤ 32, columns ≤ 32] += the products of the columns of a and of those of b, summed over the first
  // `filled` steps.
  void (*gram_bf16)(const uint16_t* a, const uint16_t* b, int64_t steps, int64_t filled, float* y,
                    int64_t ldy, int64_t rows, int64_t columns) = nullptr;

  // `rounds` of products in registers, as fast as the processor can; returns the operations done, two a
  // product: as packed_i8 multiplies, and as dense_bf16_bf16 where it pays, else dense_f32.
  double (*peak_i8)(int64_t rounds) = nullptr;
  double (*peak_dense)(int64_t rounds) = nullptr;
};

inline constexpr int kGramPanel = 16;  // columns of products_i16
inline constexpr int kGramTile = 32;   // columns of a panel of gram_bf16, and rows of a step
inline constexpr int64_t kGramStep = 2 * kGramTile * kGramTile;
// Floats of scratch for weights with k inputs: those of a panel, or the bf16 of two.
inline int64_t packed_scratch(int64_t k) { return (k + 31) / 32 * 32 * kPanelRows; }
// Floats of scratch that packed_i8 needs: what a panel's groups are multiplied with.
inline constexpr int64_t packed_factors(int64_t groups) { return groups * 2 * kPanelRows; }

// The table of NIBBLE_ISA where set, else the best that this processor can run. Chosen once.
// Throws Error when NIBBLE_ISA is unknown or not supported here.
const KernelTable& kernels();
const KernelTable* kernels_named(std::string_view isa);  // null when unknown or not supported here
std::vector<std::string_view> supported_isas();          // "ref" first, the best last

namespace isa {
extern const KernelTable kRef;
const KernelTable* avx2();     // null unless AVX2, FMA and F16C are there
const KernelTable* avxvnni();  // null unless AVX-VNNI is there beside these
const KernelTable* avx512();   // null unless AVX-512 F, BW, VL, DQ and VNNI are there
const KernelTable* amx();  // null unless AMX's tiles with bf16 are there beside these, and Linux lends them
}  // namespace isa

}  // namespace nibble
