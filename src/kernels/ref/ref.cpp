// The truth: plain loops, sums in float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/ops.h"

namespace nibble {
namespace {

template <typename W>
float widen(W w);
template <>
float widen<float>(float w) {
  return w;
}
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
template <>
float widen<Bf16>(Bf16 w) {
  return bf16_to_float(w.bits);
}
template <>
float widen<F16>(F16 w) {
  return fp16_to_float(w.bits);
}

template <typename W, typename X>
void dense(const DenseView& w, const X* x, int64_t ldx, const float* bias, float* y, int64_t ldy, int64_t m,
           int64_t n_begin, int64_t n_end) {
  const W* weights = static_cast<const W*>(w.data);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = n_begin; j < n_end; ++j) {
      double sum = bias ? bias[j] : 0.0;
      for (int64_t c = 0; c < w.k; ++c)
        sum += double{widen(x[i * ldx + c])} * double{widen(weights[j * w.k + c])};
      y[i * ldy + j] = static_cast<float>(sum);
    }
  }
}

void dense_bf16_bf16(const DenseView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy,
                     int64_t m, int64_t n_begin, int64_t n_end) {
  dense<Bf16>(w, reinterpret_cast<const Bf16*>(x), w.k, bias, y, ldy, m, n_begin, n_end);
}

void packed_f32(const PackedView& w, const float* x, int64_t ldx, const float* bias, float* y, int64_t ldy,
                int64_t m, int64_t panel_begin, int64_t panel_end, float* scratch) {
  const int64_t end = std::min(w.format.n, panel_end * kPanelRows);
  for (int64_t j = panel_begin * kPanelRows; j < end; ++j) {
    dequantize_row(w, j, scratch);
    for (int64_t i = 0; i < m; ++i) {
      double sum = bias ? bias[j] : 0.0;
      for (int64_t c = 0; c < w.format.k; ++c) sum += double{x[i * ldx + c]} * double{scratch[c]};
      y[i * ldy + j] = static_cast<float>(sum);
    }
  }
}

void packed_i8(const PackedView& w, const ActI8View& x, const float* bias, float* y, int64_t ldy,
               int64_t panel_begin, int64_t panel_end, float*) {
  const PackedFormat& f = w.format;
  const int64_t end = std::min(f.n, panel_end * kPanelRows);
  for (int64_t j = panel_begin * kPanelRows; j < end; ++j) {
    for (int64_t i = 0; i < x.rows; ++i) {
      const ActI8Row row = x.row(i);
      double sum = bias ? bias[j] : 0.0;
      for (int64_t s = 0; s < x.segments(); ++s) {
        const int64_t begin = s * kActSegment, stop = std::min(f.k, begin + kActSegment);
        const int8_t* codes = row.codes + s * row.tile * kActSegment;
        int64_t dot = 0;
        for (int64_t c = begin; c < stop; ++c) dot += packed_code(w, j, c) * codes[c - begin];
        sum += double{packed_scale(w, j, begin / f.group())} * double{row.scales[s * row.tile]} *
               static_cast<double>(dot);
      }
      for (int64_t b = 0; b < x.blocks(); ++b) {
        const int64_t group = b * x.block / f.group();
        sum -= double{packed_scale(w, j, group)} * packed_zero(w, j, group) * double{row.sums[b * row.tile]};
      }
      y[i * ldy + j] = static_cast<float>(sum);
    }
  }
}

float largest_of(const float* x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

void quantize_i8(const float* x, int64_t k, const ActI8Row& row) {
  for (int64_t b = 0; b * row.block < k; ++b) {
    const int64_t begin = b * row.block, end = std::min(k, begin + row.block);
    const float unit = largest_of(x + begin, end - begin) / (127.0f * kActSteps);
    float sum = 0;
    int32_t count = 0;
    for (int64_t from = begin; from < end; from += kActSegment) {
      const int64_t s = from / kActSegment, size = std::min<int64_t>(kActSegment, end - from);
      const float steps = unit > 0 ? std::ceil(largest_of(x + from, size) / (127.0f * unit)) : 0.0f;
      const int32_t step = std::clamp(static_cast<int32_t>(steps), 1, kActSteps);
      const float scale = unit * static_cast<float>(step), inverse = scale > 0 ? 1.0f / scale : 0.0f;
      int8_t* to = row.codes + s * row.tile * kActSegment;
      std::fill(to, to + kActSegment, int8_t{0});
      int32_t total = 0;
      for (int64_t c = 0; c < size; ++c) {
        to[c] = static_cast<int8_t>(std::nearbyintf(x[from + c] * inverse));
        total += to[c];
      }
      if (row.scales) row.scales[s * row.tile] = scale;
      if (row.steps) row.steps[s * row.tile] = step * 0x10001;
      sum += scale * static_cast<float>(total);
      count += step * total;
    }
    if (row.units) row.units[b * row.tile] = unit;
    if (row.sums) row.sums[b * row.tile] = sum;
    if (row.counts) row.counts[b * row.tile] = count;
  }
}

float to_i8(const float* x, int8_t* y, int64_t n) {
  const float largest = largest_of(x, n), inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<int8_t>(std::nearbyintf(x[i] * inverse));
  return largest / 127.0f;
}

void to_bf16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = float_to_bf16(x[i]);
}
void to_f16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = float_to_fp16(x[i]);
}
void from_f16(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = fp16_to_float(x[i]);
}

void from_i8(const int8_t* x, float scale, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = scale * static_cast<float>(x[i]);
}

void rms_norm(const float* x, const float* weight, float* y, int64_t n, float eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
  const float inverse = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + double{eps}));
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float* y, int64_t n, float eps) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]};
  const double mean = sum / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (double{x[i]} - mean) * (double{x[i]} - mean);
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + double{eps});
  for (int64_t i = 0; i < n; ++i)
    y[i] = static_cast<float>((double{x[i]} - mean) * inverse) * weight[i] + bias[i];
}

void add(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void silu_mul(const float* gate, const float* up, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) (Hendrycks & Gimpel 2016)
void gelu_new(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = x[i];
    y[i] = 0.5f * v * (1.0f + std::tanh(0.7978845608028654f * (v + 0.044715f * v * v * v)));
  }
}

float exp_sum(float* x, int64_t n, float max) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i] = std::exp(x[i] - max)};
  return static_cast<float>(sum);
}

float max_of(const float* x, int64_t n) { return *std::max_element(x, x + n); }

void scale_add(float* y, float scale, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] * scale + x[i];
}

void axpy(float* y, float a, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

void weighted_sums(const float* weights, int64_t ldw, int64_t m, const float* rows, int64_t count, float* y,
                   int64_t n) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += double{weights[r * ldw + i]} * double{rows[i * n + c]};
      y[r * n + c] = static_cast<float>(sum);
    }
  }
}

void products_i16(const int16_t* a, const int16_t* b, int64_t panels, int64_t pairs, int32_t* out) {
  const auto value = [](const int16_t* panel, int64_t pair, int64_t column, int64_t row) {
    return int64_t{panel[(pair * kGramPanel + column) * 2 + row]};
  };
  for (int64_t p = 0; p < panels; ++p, b += pairs * kGramPanel * 2, out += kGramPanel * kGramPanel) {
    for (int64_t r = 0; r < kGramPanel; ++r) {
      for (int64_t c = 0; c < kGramPanel; ++c) {
        int64_t sum = 0;
        for (int64_t pair = 0; pair < pairs; ++pair) {
          for (int64_t i = 0; i < 2; ++i) sum += value(a, pair, r, i) * value(b, pair, c, i);
        }
        out[r * kGramPanel + c] = static_cast<int32_t>(sum);
      }
    }
  }
}

void dense_f32(const DenseView& w, const float* x, int64_t ldx, const float* bias, float* y, int64_t ldy,
               int64_t m, int64_t n_begin, int64_t n_end) {
  dense<float>(w, x, ldx, bias, y, ldy, m, n_begin, n_end);
}
void dense_bf16(const DenseView& w, const float* x, int64_t ldx, const float* bias, float* y, int64_t ldy,
                int64_t m, int64_t n_begin, int64_t n_end) {
  dense<Bf16>(w, x, ldx, bias, y, ldy, m, n_begin, n_end);
}
void dense_f16(const DenseView& w, const float* x, int64_t ldx, const float* bias, float* y, int64_t ldy,
               int64_t m, int64_t n_begin, int64_t n_end) {
  dense<F16>(w, x, ldx, bias, y, ldy, m, n_begin, n_end);
}

template <typename T>
double peak(int64_t rounds) {
  volatile T sum = 0;
  for (int64_t r = 0; r < rounds; ++r) sum = sum + T{3} * static_cast<T>(r & 7);
  return 2.0 * static_cast<double>(rounds);
}

}  // namespace

const KernelTable isa::kRef = {
    .name = "ref",
    .dense_f32 = dense_f32,
    .dense_bf16 = dense_bf16,
    .dense_f16 = dense_f16,
    .dense_bf16_bf16 = dense_bf16_bf16,
    .bf16_pays = true,
    .packed_f32 = packed_f32,
    .packed_i8 = packed_i8,
    .quantize_i8 = quantize_i8,
    .to_i8 = to_i8,
    .to_bf16 = to_bf16,
    .to_f16 = to_f16,
    .from_f16 = from_f16,
    .from_i8 = from_i8,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .silu_mul = silu_mul,
    .gelu_new = gelu_new,
    .exp_sum = exp_sum,
    .max = max_of,
    .scale_add = scale_add,
    .axpy = axpy,
    .weighted_sums = weighted_sums,
    .products_i16 = products_i16,
    .peak_i8 = peak<int32_t>,
    .peak_dense = peak<float>,
};

}  // namespace nibble
