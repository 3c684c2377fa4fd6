#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace nibble {
namespace {

constexpr int64_t kRowsAtOnce = 8;  // whose weighted values are made together
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Buffers of floats in the scratch, each beginning at a cache line; counts what was taken.
class Scratch {
 public:
  explicit Scratch(float* from) : from_(from) {}
  float* take(int64_t floats) {
    const int64_t at = taken_;
    taken_ += (floats + 15) / 16 * 16;
    return from_ ? from_ + at : nullptr;
  }
  uint32_t* take_words(int64_t words) { return reinterpret_cast<uint32_t*>(take(words)); }
  size_t taken() const { return static_cast<size_t>(taken_); }

 private:
  float* from_;
  int64_t taken_ = 0;
};

struct FloatBuffers {
  float* keys;    // [keys, dim], a block of them as float32
  float* values;  // [keys, dim]
  float* q;       // [rows, dim]
  float* sum;     // [rows, dim], weighted values so far
  float* part;    // [kRowsAtOnce, dim], of some rows, of this block
  float* scores;  // [rows, keys]
  float* top;     // [rows], largest score so far
  float* total;   // [rows], Σ exp(score − top)
  float* shrink;  // [rows], what the sums so far shrink by

  FloatBuffers(Scratch& s, int64_t rows, int64_t dim)
      : keys(s.take(kAttentionKeys * dim)),
        values(s.take(kAttentionKeys * dim)),
        q(s.take(rows * dim)),
        sum(s.take(rows * dim)),
        part(s.take(kRowsAtOnce * dim)),
        scores(s.take(rows * kAttentionKeys)),
        top(s.take(rows)),
        total(s.take(rows)),
        shrink(s.take(rows)) {}
};

struct TileBuffers {
  float* keys;    // [keys, dim], a block of them as float32
  float* values;  // [keys, dim]
  AttentionTiles tiles;

  TileBuffers(Scratch& s, int64_t rows, int64_t dim, int64_t repeats)
      : keys(s.take(kAttentionKeys * dim)), values(s.take(kAttentionKeys * dim)) {
    tiles.rows = rows, tiles.head_dim = dim, tiles.repeats = repeats;
    tiles.queries = s.take_words(tiles.query_words());
    tiles.sums = s.take(tiles.all_rows() * tiles.sums_stride());
    tiles.top = s.take(tiles.all_rows());
    tiles.totals = s.take(tiles.all_rows() * kTotalParts);
    tiles.scratch = s.take_words(tiles.scratch_words());
  }
};

// body(start, count) for every block of keys that the task's queries see.
template <class Body>
void for_blocks_of_keys(const AttentionTask& t, const Body& body) {
  const int last = t.first_position + t.queries - 1;
  for (int start = 0; start <= last; start += kAttentionKeys)
    body(start, std::min(kAttentionKeys, last + 1 - start));
}

// out = sums / totals; sums [rows, ld], a row's total the sum of its `parts` numbers.
void write_out(const AttentionTask& t, const float* sums, int64_t ld, const float* totals, int64_t parts) {
  const int64_t dim = t.head_dim;
  for (int64_t i = 0; i < t.queries; ++i) {
    for (int64_t r = 0; r < t.repeats; ++r) {
      const int64_t row = i * t.repeats + r;
      const float* const of_row = totals + row * parts;
      const float inverse = 1.0f / std::accumulate(of_row, of_row + parts, 0.0f);
      float* to = t.out + i * t.stride + r * dim;
      for (int64_t d = 0; d < dim; ++d) to[d] = sums[row * ld + d] * inverse;
    }
  }
}

void attend_in_floats(const KernelTable& kernels, const AttentionTask& t, Scratch scratch) {
  const int64_t dim = t.head_dim, rows = int64_t{t.queries} * t.repeats;
  const FloatBuffers b(scratch, rows, dim);
  for (int64_t i = 0; i < t.queries; ++i)
    std::memcpy(b.q + i * t.repeats * dim, t.q + i * t.stride,
                static_cast<size_t>(t.repeats * dim) * sizeof(float));
  std::fill(b.sum, b.sum + rows * dim, 0.0f);
  std::fill(b.top, b.top + rows, -kInfinity);
  std::fill(b.total, b.total + rows, 0.0f);

  for_blocks_of_keys(t, [&](int start, int count) {
    t.keys.load(kernels, start, count, b.keys);
    std::fill(b.keys + count * dim, b.keys + kAttentionKeys * dim, 0.0f);
    t.values.load(kernels, start, count, b.values);
    kernels.dense_f32({DType::kF32, b.keys, kAttentionKeys, dim}, b.q, dim, nullptr, b.scores, kAttentionKeys,
                      rows, 0, kAttentionKeys);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = b.scores + r * kAttentionKeys;
      const int64_t visible = int64_t{t.first_position} + r / t.repeats + 1 - start;
      if (visible < kAttentionKeys)
        std::fill(row + std::max<int64_t>(visible, 0), row + kAttentionKeys, -kInfinity);
      if (visible <= 0) {
        std::fill(row, row + kAttentionKeys, 0.0f);
        b.shrink[r] = 1;
        continue;
      }
      const float largest = std::max(b.top[r], kernels.max(row, kAttentionKeys));
      b.shrink[r] = std::exp(b.top[r] - largest);
      b.total[r] = b.total[r] * b.shrink[r] + kernels.exp_sum(row, kAttentionKeys, largest);
      b.top[r] = largest;
    }
    for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
      const int64_t here = std::min(kRowsAtOnce, rows - first);
      kernels.weighted_sums(b.scores + first * kAttentionKeys, kAttentionKeys, here, b.values, count, b.part,
                            dim);
      for (int64_t r = 0; r < here; ++r)
        kernels.scale_add(b.sum + (first + r) * dim, b.shrink[first + r], b.part + r * dim, dim);
    }
  });
  write_out(t, b.sum, dim, b.total, 1);
}

void attend_by_tiles(const KernelTable& kernels, const AttentionTask& t, Scratch scratch) {
  const int64_t dim = t.head_dim, rows = int64_t{t.queries} * t.repeats;
  const TileBuffers b(scratch, rows, dim, t.repeats);
  const AttentionTiles& tiles = b.tiles;
  for (int64_t row = 0; row < rows; ++row)
    kernels.tile_query(t.q + row / t.repeats * t.stride + row % t.repeats * dim, dim, row, tiles.queries);
  // Rows without a query repeat the last one, so that nothing unwritten is read.
  const float* last = t.q + (t.queries - 1) * t.stride + (t.repeats - 1) * dim;
  for (int64_t row = rows; row < tiles.all_rows(); ++row) kernels.tile_query(last, dim, row, tiles.queries);
  std::fill(tiles.sums, tiles.sums + tiles.all_rows() * tiles.sums_stride(), 0.0f);
  std::fill(tiles.top, tiles.top + tiles.all_rows(), -kInfinity);
  std::fill(tiles.totals, tiles.totals + tiles.all_rows() * kTotalParts, 0.0f);

  for_blocks_of_keys(t, [&](int start, int count) {
    t.keys.load(kernels, start, count, b.keys);
    t.values.load(kernels, start, count, b.values);
    kernels.attend_tiles(tiles, b.keys, b.values, count, int64_t{t.first_position} + 1 - start);
  });
  write_out(t, tiles.sums, tiles.sums_stride(), tiles.totals, kTotalParts);
}

}  // namespace

size_t attention_scratch(int head_dim, int repeats, bool by_tiles) {
  const int64_t rows = int64_t{kAttentionQueries} * repeats;
  Scratch floats(nullptr), tiles(nullptr);
  FloatBuffers(floats, rows, head_dim);
  if (by_tiles) TileBuffers(tiles, rows, head_dim, repeats);
  return std::max(floats.taken(), tiles.taken());
}

void attend(const KernelTable& kernels, const AttentionTask& task, float* scratch) {
  (task.by_tiles ? attend_by_tiles : attend_in_floats)(kernels, task, Scratch(scratch));
}

}  // namespace nibble
