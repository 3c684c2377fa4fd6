// Gram matrices in integers and in bf16 against float64.
#include "quant/gram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

// Columns of very different size that share a part; `far`: this token is a thousand times the others.
std::vector<float> tokens(int64_t k, int64_t rows, int64_t far, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(k * rows));
  for (int64_t r = 0; r < rows; ++r) {
    const double shared = random.uniform() - 0.5;
    for (int64_t i = 0; i < k; ++i) {
      const double v = (random.uniform() - 0.5 + 0.7 * shared) * std::pow(10.0, i % 7 - 3);
      x[static_cast<size_t>(r * k + i)] = static_cast<float>(r == far && i % 5 == 0 ? 1000 * v : v);
    }
  }
  return x;
}

std::vector<float> gram_of(const std::vector<float>& x, int64_t k, ThreadPool& pool,
                           const KernelTable& table) {
  GramSum sum(k, pool, table);
  const int64_t rows = static_cast<int64_t>(x.size()) / k;
  sum.add(x.data(), rows / 3);
  sum.add(x.data() + rows / 3 * k, rows - rows / 3);
  return sum.take();
}

class Gram : public ::testing::TestWithParam<std::string_view> {
 protected:
  const KernelTable& table_ = *kernels_named(GetParam());
};

// Of 12 bits, or, of what bf16 has left of x, of sums in float32.
TEST_P(Gram, IsWithinTheErrorOfItsArithmetic) {
  ThreadPool pool(2);
  const bool bf16 = table_.gram_bf16 != nullptr;
  const auto value = [&](float v) { return double{bf16 ? bf16_to_float(float_to_bf16(v)) : v}; };
  for (const int64_t k : {1, 16, 50, 100}) {
    for (const int64_t far : {-1, 0, 700}) {
      const int64_t rows = 1301;  // of the last piece's pairs of rows one is short
      const auto x = tokens(k, rows, far, 5);
      const auto gram = gram_of(x, k, pool, table_);
      const auto exact = [&](int64_t i, int64_t j) {
        double sum = 0;
        for (int64_t r = 0; r < rows; ++r)
          sum += value(x[static_cast<size_t>(r * k + i)]) * value(x[static_cast<size_t>(r * k + j)]);
        return sum;
      };
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double size = std::sqrt(exact(i, i) * exact(j, j));
          ASSERT_NEAR(gram[static_cast<size_t>(i * k + j)], exact(i, j), (bf16 ? 5e-6 : 1e-4) * size)
              << i << " " << j << " k" << k;
        }
      }
    }
  }
}

TEST_P(Gram, IsTheSameForAnyNumberOfThreads) {
  ThreadPool one(1), three(3);
  const auto x = tokens(70, 900, 3, 6);
  EXPECT_EQ(gram_of(x, 70, one, table_), gram_of(x, 70, three, table_));
}

TEST_P(Gram, ShowsThatAValueWasNotFinite) {
  ThreadPool pool(2);
  auto x = tokens(20, 600, -1, 7);
  x[5 * 20 + 3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(gram_of(x, 20, pool, table_)[3 * 20 + 3]));
}

INSTANTIATE_TEST_SUITE_P(Isa, Gram, ::testing::ValuesIn(supported_isas()),
                         [](const auto& parameter) { return std::string(parameter.param); });

}  // namespace
}  // namespace nibble
