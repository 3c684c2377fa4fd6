#include "train/operations.h"

#include <algorithm>
#include <cmath>

#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kQueries = 128;  // of a tile: it sees only the keys up to its last query

// Σ a[i]·b[i] in eight sums side by side.
float dot(const float* a, const float* b, int64_t n) {
  constexpr int kLanes = 8;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];
  float total = 0;
  for (const float s : sums) total += s;
  return total;
}

// p[rows, keys] = softmax of the scores of queries first … first + rows − 1; 0 for the keys after each.
void probabilities(const KernelTable& kernels, const HeadView& h, int64_t first, int64_t rows, float* p) {
  const int64_t keys = first + rows;
  const float scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim));
  gemm(scale, {h.q + first * h.q_stride, h.q_stride}, {h.k, h.kv_stride, true}, 0, p, keys, rows, keys,
       h.head_dim);
  for (int64_t i = 0; i < rows; ++i) {
    float* row = p + i * keys;
    const int64_t visible = first + i + 1;
    const float inverse = 1.0f / kernels.exp_sum(row, visible, kernels.max(row, visible));
    for (int64_t j = 0; j < visible; ++j) row[j] *= inverse;
    std::fill(row + visible, row + keys, 0.0f);
  }
}

}  // namespace

void norm_gradient(NormKind kind, float eps, const float* x, const float* weight, const float* dy, int64_t n,
                   float* xhat, float* dx, float* dweight, float* dbias) {
  const float count = static_cast<float>(n);
  float mean = 0;
  if (kind == NormKind::kLayer) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double{x[i]};
    mean = static_cast<float>(sum / static_cast<double>(n));
  }
  for (int64_t i = 0; i < n; ++i) xhat[i] = x[i] - mean;
  const float inverse = 1.0f / std::sqrt(dot(xhat, xhat, n) / count + eps);
  for (int64_t i = 0; i < n; ++i) xhat[i] *= inverse;
  if (dweight) {
    for (int64_t i = 0; i < n; ++i) dweight[i] += dy[i] * xhat[i];
  }
  if (dbias) {
    for (int64_t i = 0; i < n; ++i) dbias[i] += dy[i];
  }
  // dx = (g − x̂·mean(g·x̂) − mean(g)) / σ with g = dy·weight; RMSNorm takes no mean away.
  double along = 0, level = 0;
  for (int64_t i = 0; i < n; ++i) along += double{dy[i] * weight[i] * xhat[i]};
  if (kind == NormKind::kLayer) level = double{dot(dy, weight, n)};
  const float a = static_cast<float>(along) / count, l = static_cast<float>(level) / count;
  for (int64_t i = 0; i < n; ++i) dx[i] += inverse * (dy[i] * weight[i] - xhat[i] * a - l);
}

void swiglu_gradient(const KernelTable& kernels, float* gate, float* up, const float* dy, int64_t n,
                     float* scratch) {
  for (int64_t i = 0; i < n; ++i) scratch[i] = -gate[i];
  kernels.exp_sum(scratch, n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const float s = 1.0f / (1.0f + scratch[i]), g = gate[i];
    gate[i] = dy[i] * up[i] * s * (1.0f + g * (1.0f - s));
    up[i] = dy[i] * g * s;
  }
}

void gelu_gradient(const KernelTable& kernels, float* x, const float* dy, int64_t n, float* scratch) {
  constexpr float kTwiceRoot = 1.5957691216057308f, kCubic = 0.044715f;  // 2·√(2/π)
  for (int64_t i = 0; i < n; ++i) scratch[i] = -kTwiceRoot * (x[i] + kCubic * x[i] * x[i] * x[i]);
  kernels.exp_sum(scratch, n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const float s = 1.0f / (1.0f + scratch[i]);
    const float slope = kTwiceRoot * (1.0f + 3.0f * kCubic * x[i] * x[i]);
    x[i] = dy[i] * (s + x[i] * s * (1.0f - s) * slope);
  }
}

void rotate_row(float* row, int64_t heads, int64_t head_dim, int64_t pairs, const float* table, Turn turn) {
  const float sign = turn == Turn::kForward ? 1.0f : -1.0f;
  for (int64_t h = 0; h < heads; ++h, row += head_dim) {
    for (int64_t j = 0; j < pairs; ++j) {
      const float cos = table[2 * j], sin = sign * table[2 * j + 1];
      const float a = row[j], b = row[j + pairs];
      row[j] = a * cos - b * sin;
      row[j + pairs] = b * cos + a * sin;
    }
  }
}

size_t attention_gradient_scratch(int64_t tokens) {
  return static_cast<size_t>(2 * std::min(kQueries, tokens) * tokens);
}

void attend_whole(const KernelTable& kernels, const HeadView& h, float* out, float* scratch) {
  for (int64_t first = 0; first < h.tokens; first += kQueries) {
    const int64_t rows = std::min(kQueries, h.tokens - first), keys = first + rows;
    probabilities(kernels, h, first, rows, scratch);
    gemm(1, {scratch, keys}, {h.v, h.kv_stride}, 0, out + first * h.q_stride, h.q_stride, rows, h.head_dim,
         keys);
  }
}

void attention_gradient(const KernelTable& kernels, const HeadView& h, const float* dout, float* dq,
                        float* dk, float* dv, float* scratch) {
  const int64_t stride = h.q_stride;
  const float scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim));
  float *p = scratch, *dp = scratch + attention_gradient_scratch(h.tokens) / 2;
  for (int64_t i = 0; i < h.tokens; ++i) {
    std::fill_n(dk + i * stride, h.head_dim, 0.0f);
    std::fill_n(dv + i * stride, h.head_dim, 0.0f);
  }
  for (int64_t first = 0; first < h.tokens; first += kQueries) {
    const int64_t rows = std::min(kQueries, h.tokens - first), keys = first + rows;
    const Factor dout_rows{dout + first * stride, stride};
    probabilities(kernels, h, first, rows, p);
    gemm(1, {p, keys, true}, dout_rows, 1, dv, stride, keys, h.head_dim, rows);
    gemm(1, dout_rows, {h.v, h.kv_stride, true}, 0, dp, keys, rows, keys, h.head_dim);
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = p + i * keys;
      float* drow = dp + i * keys;
      const float mean = dot(row, drow, keys);
      for (int64_t j = 0; j < keys; ++j) drow[j] = row[j] * (drow[j] - mean);
    }
    gemm(scale, {dp, keys}, {h.k, h.kv_stride}, 0, dq + first * stride, stride, rows, h.head_dim, keys);
    gemm(scale, {dp, keys, true}, {h.q + first * stride, stride}, 1, dk, stride, keys, h.head_dim, rows);
  }
}

}  // namespace nibble
