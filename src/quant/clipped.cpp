#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "quant/grid.h"
#include "quant/linalg.h"
#include "quant/methods.h"

namespace nibble {
namespace {

// Shares of each end of a group's range that are tried: every pair of them for an asymmetric grid.
constexpr std::array<float, 6> kShares = {1.0f, 0.92f, 0.84f, 0.76f, 0.68f, 0.6f};
constexpr int64_t kLargestExactGroup = 128;  // larger groups weigh each input by itself

std::vector<Grid> candidates(std::span<const float> values, const PackedFormat& format) {
  std::vector<Grid> grids;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  for (const float high_share : kShares) {
    if (format.symmetric) {
      grids.push_back(fit_range(values, format, high_share));
      continue;
    }
    for (const float low_share : kShares)
      grids.push_back(fit_ends(std::min(0.0f, *low) * low_share, std::max(0.0f, *high) * high_share, format));
  }
  return grids;
}

// The group's block of the Gram matrix, or only its diagonal where the group is large.
struct GroupLoss {
  int64_t count;
  bool exact;
  std::vector<float> block;  // [count, count] or [count]

  GroupLoss(const InputStatistics& input, int64_t first, int64_t size) : count(size), exact(size <= kLargestExactGroup) {
    for (int64_t i = 0; i < count; ++i) {
      const float* row = input.gram.data() + (first + i) * input.k + first;
      if (exact) {
        block.insert(block.end(), row, row + count);
      } else {
        block.push_back(row[i]);
      }
    }
  }

  // eᵀ·G·e − 2·eᵀ·toward for each of `rows` errors [rows, count]; through: scratch of the same size.
  void operator()(const float* errors, int64_t rows, const float* toward, float* through, double* out) const {
    if (exact) {
      kernels().dense_f32({DType::kF32, block.data(), count, count}, errors, count, nullptr, through, count, rows, 0, count);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* e = errors + r * count;
      const float* t = through + r * count;
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += double{e[i]} * (double{exact ? t[i] : block[static_cast<size_t>(i)] * e[i]} - 2 * double{toward[i]});
      out[r] = sum;
    }
  }
};

}  // namespace

Quantized quantize_clipped(std::span<const float> weight, const InputStatistics& input, const MethodOptions& options,
                           ThreadPool& pool) {
  if (!input.finite || input.tokens == 0) {
    Quantized out = quantize_rtn(weight, input, options, pool);
    out.note = input.tokens == 0 ? "no calibration tokens: rounded" : "NaN or infinite activations: rounded";
    out.fell_back = true;
    return out;
  }
  Quantized out{QuantizedMatrix(options.format), 0, "", false};
  QuantizedMatrix& m = out.matrix;
  const PackedFormat& f = m.format;
  // −Σ of the errors of the groups already done, through the Gram matrix: what a later group's error
  // should work against, so that the output error of the whole row falls.
  std::vector<float> toward(weight.size()), chosen(static_cast<size_t>(f.n * std::min(f.group(), f.k)));
  for (int64_t g = 0; g < f.groups(); ++g) {
    const int64_t first = g * f.group(), count = std::min(f.group(), f.k - first);
    const GroupLoss loss(input, first, count);
    pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
      std::vector<float> errors, through;
      std::vector<double> losses;
      for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
        const std::span<const float> values = weight.subspan(static_cast<size_t>(row * f.k + first), static_cast<size_t>(count));
        const std::vector<Grid> grids = candidates(values, f);
        errors.resize(grids.size() * values.size());
        through.resize(errors.size());
        losses.resize(grids.size());
        for (size_t c = 0, at = 0; c < grids.size(); ++c) {
          for (const float v : values) errors[at++] = v - grids[c].value(grids[c].code(v, f.max_code()));
        }
        loss(errors.data(), static_cast<int64_t>(grids.size()), toward.data() + row * f.k + first, through.data(), losses.data());
        const std::ptrdiff_t least = std::min_element(losses.begin(), losses.end()) - losses.begin();
        const Grid& best = grids[static_cast<size_t>(least)];
        std::copy_n(errors.begin() + least * count, count, chosen.begin() + row * count);
        const size_t at = static_cast<size_t>(row * f.groups() + g);
        m.scales[at] = best.scale;
        m.zeros[at] = static_cast<uint8_t>(best.zero);
        for (size_t i = 0; i < values.size(); ++i)
          m.codes[static_cast<size_t>(row * f.k + first) + i] = static_cast<uint8_t>(best.code(values[i], f.max_code()));
      }
    });
    const int64_t next = first + count;
    if (next < f.k) {
      subtract_product(chosen.data(), count, input.gram.data() + first * f.k + next, f.k, toward.data() + next, f.k, f.n,
                       f.k - next, count, pool);
    }
  }
  return out;
}

}  // namespace nibble
