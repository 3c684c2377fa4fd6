// The grid of one group: scale and zero point, and rounding to it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/packed.h"

namespace nibble {

// To the nearest integer, halves to even, for |value| < 2^22; a compiler can do it for several values at
// once.
inline float nearest_integer(float value) {
  constexpr float kShift = 0x1.8p23f;
  return (value + kShift) - kShift;
}

struct Grid {
  float scale = 0;  // as it is stored: of the format's type; may be negative when symmetric
  int zero = 0;

  // The nearest code; 0 scale gives the zero point.
  int code(float value, int max_code) const;
  float value(int code) const { return scale * static_cast<float>(code - zero); }
};

// Of what the row's scales are multiples where they are bytes: they reach a quarter beyond its widest group,
// since weights move while errors are spread. 0 for scales of another type. row: [k].
float row_unit(std::span<const float> row, const PackedFormat& format);

std::vector<float> row_units(std::span<const float> weight, const PackedFormat& format);  // [n] of [n, k]

// `unit` below: of the row.

// The grid that spans all values (and 0), shrunk by `ratio` ≤ 1 towards 0. Symmetric: the value of
// largest magnitude gets the code 0, which reaches one step further than the largest code, so the
// scale takes the opposite sign of that value.
Grid fit_range(std::span<const float> values, const PackedFormat& format, float unit, float ratio = 1.0f);

// The asymmetric grid from `low` ≤ 0 to `high` ≥ 0.
Grid fit_ends(float low, float high, const PackedFormat& format, float unit);

// The ratio among 1, 0.975, … 0.6 whose grid has the least Σ weights[i]·(value − rounded)².
Grid fit_weighted(std::span<const float> values, std::span<const float> weights, const PackedFormat& format,
                  float unit);

}  // namespace nibble
