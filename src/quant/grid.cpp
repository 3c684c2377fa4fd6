#include "quant/grid.h"

#include <algorithm>
#include <cmath>

#include "tensor/dtype.h"

namespace nibble {
namespace {

constexpr int kRatios = 17;
constexpr float kRatioStep = 0.025f;
constexpr float kSmallestNormal = 0x1.0p-14f;  // fp16: below it steps are lost

// As it is stored. A scale too small for fp16's full precision is kept at its smallest normal
// number: the codes then use less of their range, which loses less than a coarse scale.
float stored_scale(float scale, ScaleType type, float unit) {
  if (scale == 0 || type != ScaleType::kF16) return rounded_scale(scale, type, unit);
  const float magnitude = std::clamp(std::fabs(scale), kSmallestNormal, 65504.0f);
  return rounded_scale(std::copysign(magnitude, scale), type, unit);
}

struct Ends {
  float low = 0, high = 0;
};
// Of all values and 0.
Ends ends(std::span<const float> values) {
  Ends e;
  for (const float v : values) {
    e.low = std::min(e.low, v);
    e.high = std::max(e.high, v);
  }
  return e;
}

// Σ weights[i]·(value − rounded)² for a grid of non-zero scale, summed in eight lanes.
float weighted_error(std::span<const float> values, std::span<const float> weights, const Grid& grid,
                     int max_code) {
  constexpr size_t kLanes = 8;
  const float low = static_cast<float>(-grid.zero), high = static_cast<float>(max_code - grid.zero);
  const auto error = [&](size_t i) {
    const float step = nearest_integer(std::min(std::max(values[i] / grid.scale, low), high));
    const float difference = values[i] - grid.scale * step;
    return weights[i] * difference * difference;
  };
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += error(i + lane);
  }
  for (; i < values.size(); ++i) lanes[i % kLanes] += error(i);
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

}  // namespace

int Grid::code(float value, int max_code) const {
  if (scale == 0) return zero;
  const float low = static_cast<float>(-zero), high = static_cast<float>(max_code - zero);
  return static_cast<int>(nearest_integer(std::clamp(value / scale, low, high))) + zero;
}

float row_unit(std::span<const float> row, const PackedFormat& format) {
  if (format.scale_type != ScaleType::kByte) return 0;
  constexpr float kReach = 1.25f;
  const size_t group = static_cast<size_t>(format.group());
  float widest = 0;
  for (size_t first = 0; first < row.size(); first += group) {
    const auto [low, high] = ends(row.subspan(first, std::min(group, row.size() - first)));
    widest = std::max(widest, high - low);
  }
  return scale_unit(kReach * widest / static_cast<float>(format.max_code()));
}

std::vector<float> row_units(std::span<const float> weight, const PackedFormat& format) {
  const size_t k = static_cast<size_t>(format.k);
  std::vector<float> units(static_cast<size_t>(format.n));
  for (size_t row = 0; row < units.size(); ++row) units[row] = row_unit(weight.subspan(row * k, k), format);
  return units;
}

Grid fit_range(std::span<const float> values, const PackedFormat& format, float unit, float ratio) {
  const auto [low, high] = ends(values);
  Grid grid;
  if (format.symmetric) {
    grid.zero = format.middle();
    const float extreme = -low > high ? low : high;
    grid.scale =
        stored_scale(-extreme * ratio / static_cast<float>(format.middle()), format.scale_type, unit);
    return grid;
  }
  return fit_ends(low * ratio, high * ratio, format, unit);
}

Grid fit_ends(float low, float high, const PackedFormat& format, float unit) {
  Grid grid;
  const float top = static_cast<float>(format.max_code());
  grid.scale = stored_scale((high - low) / top, format.scale_type, unit);
  if (grid.scale != 0)
    grid.zero = static_cast<int>(std::clamp(std::nearbyintf(-low / grid.scale), 0.0f, top));
  return grid;
}

Grid fit_weighted(std::span<const float> values, std::span<const float> weights, const PackedFormat& format,
                  float unit) {
  Grid best;
  float best_error = INFINITY;
  for (int step = 0; step < kRatios; ++step) {
    const Grid grid = fit_range(values, format, unit, 1.0f - kRatioStep * static_cast<float>(step));
    if (grid.scale == 0) return grid;  // all values are 0
    const float error = weighted_error(values, weights, grid, format.max_code());
    if (error < best_error) {
      best_error = error;
      best = grid;
    }
  }
  return best;
}

}  // namespace nibble
