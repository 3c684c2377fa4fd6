#include "train/rounding.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/grid.h"
#include "quant/method.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

constexpr float kEdge = 0.49f;  // of an integer's interval, in steps from its middle

// Rows, then columns of `original` take the lengths that those of `like` have.
void match_lengths(std::vector<float>& original, const std::vector<float>& like, int64_t n, int64_t k) {
  constexpr int kSweeps = 2;
  const size_t rows = static_cast<size_t>(n), columns = static_cast<size_t>(k);
  // The factor by which a row or column of `original` comes nearest to that of `like`.
  const auto factor = [](double along, double length) {
    return length > 0 && along > 0 ? static_cast<float>(along / length) : 1.0f;
  };
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    std::vector<double> along(columns), length(columns);
    for (size_t r = 0; r < rows; ++r) {
      float* row = original.data() + r * columns;
      const float* wanted = like.data() + r * columns;
      double row_along = 0, row_length = 0;
      for (size_t c = 0; c < columns; ++c) {
        row_along += double{row[c]} * double{wanted[c]};
        row_length += double{row[c]} * double{row[c]};
      }
      const float f = factor(row_along, row_length);
      for (size_t c = 0; c < columns; ++c) {
        row[c] *= f;
        along[c] += double{row[c]} * double{wanted[c]};
        length[c] += double{row[c]} * double{row[c]};
      }
    }
    for (size_t c = 0; c < columns; ++c) {
      const float f = factor(along[c], length[c]);
      for (size_t r = 0; r < rows; ++r) original[r * columns + c] *= f;
    }
  }
}

float sign(double value) { return value > 0 ? 1.0f : value < 0 ? -1.0f : 0.0f; }

}  // namespace

EndsGradient ends_gradient(std::span<const float> w, std::span<const float> v, std::span<const float> dw,
                           float scale, int zero, const PackedFormat& format) {
  const float top = static_cast<float>(format.max_code()), z = static_cast<float>(zero);
  double by_scale = 0, by_zero = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const float steps = w[i] / scale, step = nearest_integer(steps + v[i]);
    const bool below = step<-z, above = step> top - z;
    const float code = below ? -z : above ? top - z : step;
    by_scale += double{dw[i]} * double{below || above ? code : code - steps};
    if (below || above) by_zero -= double{dw[i]} * double{scale};
  }
  if (format.symmetric) return {by_scale, 0};
  // z = −low/s with s = (high − low)/top: ∂s/∂low = −1/top, ∂z/∂low = −1/s − low/(s²·top), ∂z/∂high =
  // low/(s²·top).
  const double s = double{scale}, low = -s * zero, per_top = 1 / double{top};
  return {-by_scale * per_top + by_zero * (-1 / s - low / (s * s) * per_top),
          by_scale * per_top + by_zero * low / (s * s) * per_top};
}

template <typename Body>
void LearnedRounding::for_groups(ThreadPool& pool, const Body& body) const {
  const PackedFormat& f = start_.format;
  const int64_t groups = f.groups(), group = f.group();
  pool.parallel_for(static_cast<size_t>(f.n), 4, [&](size_t begin, size_t end, int) {
    for (size_t at = begin * static_cast<size_t>(groups); at < end * static_cast<size_t>(groups); ++at) {
      const int64_t row = static_cast<int64_t>(at) / groups,
                    first = static_cast<int64_t>(at) % groups * group;
      body(at, static_cast<size_t>(row * f.k + first), static_cast<size_t>(std::min(group, f.k - first)));
    }
  });
}

LearnedRounding::LearnedRounding(QuantizedMatrix start, std::vector<float> original, ThreadPool& pool)
    : start_(std::move(start)),
      units_(scale_units(start_.scales, start_.format)),
      weights_(std::move(original)) {
  const PackedFormat& f = start_.format;
  NIBBLE_CHECK(weights_.size() == start_.codes.size() && f.scale_type != ScaleType::kF32);
  for (float& w : weights_) w = std::isfinite(w) ? w : 0;
  match_lengths(weights_, dequantize(start_, pool), f.n, f.k);
  shifts_.resize(weights_.size());
  for (auto* ends : {&low_, &high_, &low_factor_, &high_factor_}) ends->resize(start_.scales.size());
  const float top = static_cast<float>(f.max_code());
  for_groups(pool, [&](size_t g, size_t first, size_t count) {
    const float scale = start_.scales[g], zero = static_cast<float>(start_.zeros[g]);
    float least = 0, most = 0;
    for (size_t i = first; i < first + count; ++i) {
      least = std::min(least, weights_[i]);
      most = std::max(most, weights_[i]);
      if (scale == 0) continue;
      // A code at an end of the range stands for all that lies beyond.
      const float code = static_cast<float>(start_.codes[i]), steps = weights_[i] / scale + zero;
      const float from = code == 0 ? -INFINITY : code - kEdge, to = code == top ? INFINITY : code + kEdge;
      weights_[i] = scale * (std::clamp(steps, from, to) - zero);
    }
    const auto widest = [&](float end, float method, float& factor) {
      const float wide = std::fabs(end) > std::fabs(method) ? end : method;
      factor = wide == 0 ? 1.0f : method / wide;
      return wide;
    };
    if (f.symmetric) {
      const float extreme = std::max(most, -least) / static_cast<float>(f.middle());
      low_[g] = widest(std::copysign(extreme, scale), scale, low_factor_[g]);
    } else {
      low_[g] = widest(least, -zero * scale, low_factor_[g]);
      high_[g] = widest(most, (top - zero) * scale, high_factor_[g]);
    }
  });
}

LearnedRounding::GroupGrid LearnedRounding::grid(size_t g) const {
  const PackedFormat& f = start_.format;
  if (start_.scales[g] == 0) return {0, start_.zeros[g]};
  if (f.symmetric) return {rounded_to_fp16(low_factor_[g] * low_[g]), f.middle()};
  const Grid grid = fit_ends(low_factor_[g] * low_[g], high_factor_[g] * high_[g], f,
                             units_[g / static_cast<size_t>(f.groups())]);
  return {grid.scale, grid.zero};
}

void LearnedRounding::values(float* out, ThreadPool& pool) const {
  const float top = static_cast<float>(start_.format.max_code());
  for_groups(pool, [&](size_t g, size_t first, size_t count) {
    const auto [scale, zero] = grid(g);
    if (scale == 0) {
      std::fill_n(out + first, count, 0.0f);
      return;
    }
    const float low = static_cast<float>(-zero), high = top + low;
    for (size_t i = first; i < first + count; ++i)
      out[i] = scale * std::min(std::max(nearest_integer(weights_[i] / scale + shifts_[i]), low), high);
  });
}

void LearnedRounding::step(const float* dw, float rate, float ends_rate, ThreadPool& pool) {
  const PackedFormat& f = start_.format;
  const float top = static_cast<float>(f.max_code());
  for_groups(pool, [&](size_t g, size_t first, size_t count) {
    const auto [scale, zero] = grid(g);
    if (scale == 0) return;
    const EndsGradient ends = ends_gradient({weights_.data() + first, count}, {shifts_.data() + first, count},
                                            {dw + first, count}, scale, zero, f);
    const float low = static_cast<float>(-zero), high = top + low, along = scale > 0 ? rate : -rate;
    for (size_t i = first; i < first + count; ++i) {
      const float step = nearest_integer(weights_[i] / scale + shifts_[i]);
      const float move = step < low || step > high || dw[i] == 0 ? 0.0f : dw[i] > 0 ? along : -along;
      shifts_[i] = std::min(std::max(shifts_[i] - move, -0.5f), 0.5f);
    }
    const auto move = [&](float& factor, double gradient, float end) {
      factor = std::clamp(factor - ends_rate * sign(gradient * double{end}), 0.0f, 1.0f);
    };
    move(low_factor_[g], ends.low, low_[g]);
    if (!f.symmetric) move(high_factor_[g], ends.high, high_[g]);
  });
}

QuantizedMatrix LearnedRounding::stored(ThreadPool& pool) const {
  QuantizedMatrix out(start_.format);
  const float top = static_cast<float>(start_.format.max_code());
  for_groups(pool, [&](size_t g, size_t first, size_t count) {
    const auto [scale, zero] = grid(g);
    out.scales[g] = scale;
    out.zeros[g] = static_cast<uint8_t>(zero);
    const float low = static_cast<float>(-zero), high = top + low;
    for (size_t i = first; i < first + count; ++i)
      out.codes[i] = scale == 0
                         ? out.zeros[g]
                         : static_cast<uint8_t>(
                               zero + static_cast<int>(std::clamp(
                                          nearest_integer(weights_[i] / scale + shifts_[i]), low, high)));
  });
  return out;
}

int64_t LearnedRounding::changed(const QuantizedMatrix& now) const {
  int64_t count = 0;
  for (size_t i = 0; i < now.codes.size(); ++i) count += now.codes[i] != start_.codes[i];
  return count;
}

}  // namespace nibble
