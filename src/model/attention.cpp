#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace nibble {
namespace {

constexpr int64_t kRowsAtOnce = 8;  // whose weighted values are made together
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

size_t attention_scratch(int head_dim, int repeats) {
  const size_t rows = static_cast<size_t>(kAttentionQueries) * static_cast<size_t>(repeats);
  const size_t dim = static_cast<size_t>(head_dim);
  return 2 * kAttentionKeys * dim + rows * (kAttentionKeys + 2 * dim + 3) + kRowsAtOnce * dim;
}

void attend(const KernelTable& kernels, const AttentionTask& t, float* scratch) {
  const int64_t dim = t.head_dim, rows = int64_t{t.queries} * t.repeats;
  float* keys = scratch;                        // [keys, dim], a block of them as float32
  float* values = keys + kAttentionKeys * dim;  // [keys, dim]
  float* q = values + kAttentionKeys * dim;     // [rows, dim]
  float* sum = q + rows * dim;                  // [rows, dim], weighted values so far
  float* part = sum + rows * dim;               // [kRowsAtOnce, dim], of some rows, of this block
  float* scores = part + kRowsAtOnce * dim;     // [rows, keys]
  float* top = scores + rows * kAttentionKeys;  // [rows], largest score so far
  float* total = top + rows;                    // [rows], Σ exp(score − top)
  float* shrink = total + rows;                 // [rows], what the sums so far shrink by
  for (int64_t i = 0; i < t.queries; ++i)
    std::memcpy(q + i * t.repeats * dim, t.q + i * t.stride,
                static_cast<size_t>(t.repeats * dim) * sizeof(float));
  std::fill(sum, sum + rows * dim, 0.0f);
  std::fill(top, top + rows, -kInfinity);
  std::fill(total, total + rows, 0.0f);

  const int last = t.first_position + t.queries - 1;
  for (int start = 0; start <= last; start += kAttentionKeys) {
    const int count = std::min(kAttentionKeys, last + 1 - start);
    t.keys.load(kernels, start, count, keys);
    std::fill(keys + count * dim, keys + kAttentionKeys * dim, 0.0f);
    t.values.load(kernels, start, count, values);
    kernels.dense_f32({DType::kF32, keys, kAttentionKeys, dim}, q, dim, nullptr, scores, kAttentionKeys, rows,
                      0, kAttentionKeys);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kAttentionKeys;
      const int64_t visible = int64_t{t.first_position} + r / t.repeats + 1 - start;
      if (visible < kAttentionKeys)
        std::fill(row + std::max<int64_t>(visible, 0), row + kAttentionKeys, -kInfinity);
      if (visible <= 0) {
        std::fill(row, row + kAttentionKeys, 0.0f);
        shrink[r] = 1;
        continue;
      }
      const float largest = std::max(top[r], kernels.max(row, kAttentionKeys));
      shrink[r] = std::exp(top[r] - largest);
      total[r] = total[r] * shrink[r] + kernels.exp_sum(row, kAttentionKeys, largest);
      top[r] = largest;
    }
    for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
      const int64_t here = std::min(kRowsAtOnce, rows - first);
      kernels.weighted_sums(scores + first * kAttentionKeys, kAttentionKeys, here, values, count, part, dim);
      for (int64_t r = 0; r < here; ++r)
        kernels.scale_add(sum + (first + r) * dim, shrink[first + r], part + r * dim, dim);
    }
  }
  for (int64_t i = 0; i < t.queries; ++i) {
    for (int64_t r = 0; r < t.repeats; ++r) {
      const int64_t row = i * t.repeats + r;
      const float inverse = 1.0f / total[row];
      float* to = t.out + i * t.stride + r * dim;
      for (int64_t d = 0; d < dim; ++d) to[d] = sum[row * dim + d] * inverse;
    }
  }
}

}  // namespace nibble
