#include "quant/method.h"

#include "base/error.h"
#include "quant/linalg.h"

namespace nibble {

std::vector<float> dequantize(const QuantizedMatrix& m) {
  std::vector<float> values(m.codes.size());
  for (int64_t row = 0; row < m.format.n; ++row) {
    for (int64_t i = 0; i < m.format.k; ++i)
      values[static_cast<size_t>(row * m.format.k + i)] = m.value(row, i);
  }
  return values;
}

double relative_output_error(std::span<const float> weight, std::span<const float> quantized, int64_t n,
                             const InputStatistics& input, ThreadPool& pool) {
  const int64_t k = input.k;
  NIBBLE_CHECK(static_cast<int64_t>(weight.size()) == n * k && quantized.size() == weight.size());
  const auto energy = [&](const std::vector<float>& rows) {
    std::vector<float> through(rows.size());
    product(rows.data(), input.gram.data(), through.data(), n, k, k, pool);
    std::vector<double> partial(static_cast<size_t>(n));
    pool.parallel_for(static_cast<size_t>(n), 1, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        double sum = 0;
        for (size_t i = r * static_cast<size_t>(k); i < (r + 1) * static_cast<size_t>(k); ++i)
          sum += double{rows[i]} * double{through[i]};
        partial[r] = sum;
      }
    });
    double total = 0;
    for (const double p : partial) total += p;
    return total;
  };
  std::vector<float> rows(weight.begin(), weight.end());
  const double base = energy(rows);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] -= quantized[i];
  const double error = energy(rows);
  if (error <= 0) return 0;
  return base > 0 ? error / base : 1.0;
}

}  // namespace nibble
