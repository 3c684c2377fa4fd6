#include "quant/method.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "quant/linalg.h"

namespace nibble {

std::vector<float> dequantize(const QuantizedMatrix& m, ThreadPool& pool) {
  const PackedFormat& f = m.format;
  const int64_t group = f.group(), groups = f.groups();
  std::vector<float> values(m.codes.size());
  pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
    for (int64_t at = static_cast<int64_t>(begin) * groups; at < static_cast<int64_t>(end) * groups; ++at) {
      const int64_t first = at % groups * group, row = at / groups * f.k;
      const float scale = m.scales[static_cast<size_t>(at)];
      const int zero = m.zeros[static_cast<size_t>(at)];
      for (int64_t i = row + first; i < row + std::min(first + group, f.k); ++i)
        values[static_cast<size_t>(i)] = scale * static_cast<float>(m.codes[static_cast<size_t>(i)] - zero);
    }
  });
  return values;
}

double relative_output_error(std::span<const float> weight, std::span<const float> quantized, int64_t n,
                             const InputStatistics& input, ThreadPool& pool) {
  const int64_t k = input.k;
  NIBBLE_CHECK(static_cast<int64_t>(weight.size()) == n * k && quantized.size() == weight.size());
  const std::vector<float>& x = input.judge();
  const int64_t tokens = static_cast<int64_t>(x.size()) / k;
  std::vector<float> out(static_cast<size_t>(n * tokens));
  std::vector<double> of_row(static_cast<size_t>(n));
  const auto energy = [&](const float* rows) {
    product_transposed(rows, x.data(), out.data(), n, tokens, k, pool);
    pool.parallel_for(of_row.size(), 1, [&](size_t begin, size_t end, int) {
      for (size_t row = begin; row < end; ++row) {
        of_row[row] = 0;
        for (int64_t i = 0; i < tokens; ++i) {
          const double v = double{out[row * static_cast<size_t>(tokens) + static_cast<size_t>(i)]};
          of_row[row] += v * v;
        }
      }
    });
    return std::accumulate(of_row.begin(), of_row.end(), 0.0);
  };
  const double base = energy(weight.data());
  std::vector<float> difference(weight.size());
  pool.parallel_for(difference.size(), 4096, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) difference[i] = weight[i] - quantized[i];
  });
  const double error = energy(difference.data());
  if (error <= 0) return 0;
  return base > 0 ? error / base : 1.0;
}

}  // namespace nibble
