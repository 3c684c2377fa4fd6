#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "quant/grid.h"
#include "quant/methods.h"
#include "quant/refine.h"

namespace nibble {
namespace {

// Shares of each end of a group's range that are tried: every pair of them for an asymmetric grid.
constexpr std::array<float, 5> kShares = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f};
constexpr int kRefineSweeps = 3;
// Of the mean diagonal. At 0.01 SmolLM2-135M lost more than by rounding (KL 0.31 against 0.20): the few
// directions that carry most of the input were served at the cost of all others.
constexpr double kRefineDamp = 1.0;
constexpr int64_t kLargestExactGroup = 128;  // larger groups weigh each input by itself

std::vector<Grid> candidates(std::span<const float> values, const PackedFormat& format, float unit,
                             bool clip) {
  if (!clip) return {fit_range(values, format, unit)};
  std::vector<Grid> grids;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  for (const float high_share : kShares) {
    if (format.symmetric) {
      grids.push_back(fit_range(values, format, unit, high_share));
      continue;
    }
    for (const float low_share : kShares)
      grids.push_back(
          fit_ends(std::min(0.0f, *low) * low_share, std::max(0.0f, *high) * high_share, format, unit));
  }
  return grids;
}

// The group's block of the Gram matrix, or only its diagonal where the group is large.
struct GroupLoss {
  int64_t count;
  bool exact;
  std::vector<float> block;  // [count, count] or [count]

  GroupLoss(const InputStatistics& input, int64_t first, int64_t size)
      : count(size), exact(size <= kLargestExactGroup) {
    for (int64_t i = 0; i < count; ++i) {
      const float* row = input.gram.data() + (first + i) * input.k + first;
      if (exact) {
        block.insert(block.end(), row, row + count);
      } else {
        block.push_back(row[i]);
      }
    }
  }

  // eᵀ·G·e for each of `rows` errors [rows, count]; through: scratch of the same size.
  void operator()(const float* errors, int64_t rows, float* through, double* out) const {
    if (exact) {
      kernels().dense_f32({DType::kF32, block.data(), count, count}, errors, count, nullptr, through, count,
                          rows, 0, count);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* e = errors + r * count;
      const float* t = through + r * count;
      double sum = 0;
      for (int64_t i = 0; i < count; ++i)
        sum += double{e[i]} * double{exact ? t[i] : block[static_cast<size_t>(i)] * e[i]};
      out[r] = sum;
    }
  }
};

}  // namespace

Quantized quantize_clipped(std::span<const float> weight, const InputStatistics& input,
                           const MethodOptions& options, ThreadPool& pool) {
  if (!input.finite || input.tokens == 0) {
    Quantized out = quantize_rtn(weight, input, options, pool);
    out.note = input.tokens == 0 ? "no calibration tokens: rounded" : "NaN or infinite activations: rounded";
    out.fell_back = true;
    return out;
  }
  Quantized out{QuantizedMatrix(options.format), 0, "", false};
  QuantizedMatrix& m = out.matrix;
  const PackedFormat& f = m.format;
  const std::vector<float> units = row_units(weight, f);
  for (int64_t g = 0; g < f.groups(); ++g) {
    const int64_t first = g * f.group(), count = std::min(f.group(), f.k - first);
    const GroupLoss loss(input, first, count);
    pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
      std::vector<float> errors, through;
      std::vector<double> losses;
      for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
        const std::span<const float> values =
            weight.subspan(static_cast<size_t>(row * f.k + first), static_cast<size_t>(count));
        const std::vector<Grid> grids = candidates(values, f, units[static_cast<size_t>(row)], options.clip);
        errors.resize(grids.size() * values.size());
        through.resize(errors.size());
        losses.resize(grids.size());
        for (size_t c = 0, at = 0; c < grids.size(); ++c) {
          for (const float v : values) errors[at++] = v - grids[c].value(grids[c].code(v, f.max_code()));
        }
        loss(errors.data(), static_cast<int64_t>(grids.size()), through.data(), losses.data());
        const std::ptrdiff_t least = std::min_element(losses.begin(), losses.end()) - losses.begin();
        const Grid& best = grids[static_cast<size_t>(least)];
        const size_t at = static_cast<size_t>(row * f.groups() + g);
        m.scales[at] = best.scale;
        m.zeros[at] = static_cast<uint8_t>(best.zero);
        for (size_t i = 0; i < values.size(); ++i)
          m.codes[static_cast<size_t>(row * f.k + first) + i] =
              static_cast<uint8_t>(best.code(values[i], f.max_code()));
      }
    });
  }
  refine_codes(weight, input, kRefineDamp, kRefineSweeps, m, pool);
  return out;
}

}  // namespace nibble
