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
  const std::vector<float>& x = input.judge();
  const int64_t tokens = static_cast<int64_t>(x.size()) / k;
  std::vector<float> out(static_cast<size_t>(n * tokens));
  const auto energy = [&](const std::vector<float>& rows) {
    product_transposed(rows.data(), x.data(), out.data(), n, tokens, k, pool);
    double total = 0;
    for (const float v : out) total += double{v} * double{v};
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
