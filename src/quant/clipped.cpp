#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/grid.h"
#include "quant/methods.h"

namespace nibble {
namespace {

constexpr int kRatios = 11;
constexpr float kRatioStep = 0.05f;
constexpr int64_t kLargestExactGroup = 128;  // larger groups weigh each input by itself

// eᵀ·G·e for the group's block of the Gram matrix.
double output_error(const std::vector<double>& e, const std::vector<float>& gram, int64_t k, int64_t first) {
  const int64_t count = static_cast<int64_t>(e.size());
  double total = 0;
  if (count > kLargestExactGroup) {
    for (int64_t i = 0; i < count; ++i) {
      const double v = e[static_cast<size_t>(i)];
      total += v * v * gram[static_cast<size_t>((first + i) * k + first + i)];
    }
    return total;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float* row = gram.data() + (first + i) * k + first;
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += row[j] * e[static_cast<size_t>(j)];
    total += sum * e[static_cast<size_t>(i)];
  }
  return total;
}

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
  pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
    std::vector<double> error;
    for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
      const float* w = weight.data() + row * f.k;
      for (int64_t g = 0; g < f.groups(); ++g) {
        const int64_t first = g * f.group(), count = std::min(f.group(), f.k - first);
        const std::span<const float> values(w + first, static_cast<size_t>(count));
        error.resize(values.size());
        Grid best;
        double best_error = INFINITY;
        for (int step = 0; step < kRatios; ++step) {
          const Grid grid = fit_range(values, f, 1.0f - kRatioStep * static_cast<float>(step));
          for (size_t i = 0; i < values.size(); ++i) error[i] = values[i] - grid.value(grid.code(values[i], f.max_code()));
          const double loss = output_error(error, input.gram, f.k, first);
          if (loss < best_error) {
            best_error = loss;
            best = grid;
          }
          if (grid.scale == 0) break;
        }
        const size_t at = static_cast<size_t>(row * f.groups() + g);
        m.scales[at] = best.scale;
        m.zeros[at] = static_cast<uint8_t>(best.zero);
        for (size_t i = 0; i < values.size(); ++i)
          m.codes[static_cast<size_t>(row * f.k + first) + i] = static_cast<uint8_t>(best.code(values[i], f.max_code()));
      }
    }
  });
  return out;
}

}  // namespace nibble
