// The products by tiles against float64 loops: with tiles that plain code plays, on every machine with AVX2,
// and with the processor's own where it has them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/bf16_rows.h"
#include "kernels/cpu/played_tiles_avx2.h"
#include "random_matrices.h"

namespace nibble {
namespace {

class Tiles : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    table_ = table_with_tiles(GetParam());
    if (!table_) GTEST_SKIP() << "this processor has no " << GetParam();
  }

  std::vector<uint16_t> half(const std::vector<float>& x) const {
    std::vector<uint16_t> rounded(x.size());
    table_->to_bf16(x.data(), rounded.data(), static_cast<int64_t>(x.size()));
    return rounded;
  }
  // Rows of k inputs as the products want them; what they must not read is NaN.
  std::vector<uint16_t> rows_of(const std::vector<float>& x, int64_t k) const {
    const int64_t m = static_cast<int64_t>(x.size()) / k;
    std::vector<uint16_t> rows(static_cast<size_t>(bf16_values(*table_, m, k)), 0x7fc0);
    const int64_t middle = m / 2;  // as two threads would
    to_bf16_rows(*table_, x.data(), k, middle, m, rows.data());
    to_bf16_rows(*table_, x.data(), k, 0, middle, rows.data());
    return rows;
  }
  std::vector<float> packed(const PackedView& w, const std::vector<float>& inputs, int64_t m,
                            const float* bias) const {
    const auto x = rows_of(inputs, w.format.k);
    const int64_t panels = w.format.panels(), middle = panels / 2;
    std::vector<float> y(static_cast<size_t>(m * w.format.n), -1);
    std::vector<float> scratch(static_cast<size_t>(packed_scratch(w.format.k)));
    table_->packed_bf16(w, x.data(), bias, y.data(), w.format.n, m, 0, middle, scratch.data());
    table_->packed_bf16(w, x.data(), bias, y.data(), w.format.n, m, middle, panels, scratch.data());
    return y;
  }

  const KernelTable* table_ = nullptr;
};

TEST_P(Tiles, PackedMatchesFloat64ForEveryFormat) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 48, 128, 0}) {
      for (const bool symmetric : {false, true}) {
        for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
                 {1, 1}, {17, 100}, {33, 256}, {8, 600}, {48, 700}, {50, 1300}}) {
          const auto q =
              random_quantized(bits, group, symmetric, n, k, static_cast<uint64_t>(bits * 1000 + group),
                               n == 17                ? ScaleType::kF32
                               : symmetric || n != 50 ? ScaleType::kF16
                                                      : ScaleType::kByte);
          const PackedBuffers packed_weights = pack(q);
          const auto bias = normals(static_cast<size_t>(n), 7);
          for (const int64_t m : {1, 7, 33, 48}) {
            if (k >= 700 && m == 48 && bits != 4) continue;  // the played tiles are slow
            const auto x = normals(static_cast<size_t>(m * k), 8);
            const auto y = packed(packed_weights.view(q.format), x, m, bias.data());
            for (int64_t i = 0; i < m; ++i) {
              for (int64_t j = 0; j < n; ++j) {
                double sum = bias[static_cast<size_t>(j)], size = std::fabs(sum);
                for (int64_t c = 0; c < k; ++c) {
                  const double p = double{bf16_to_float(float_to_bf16(q.value(j, c)))} *
                                   double{bf16_to_float(float_to_bf16(x[static_cast<size_t>(i * k + c)]))};
                  sum += p;
                  size += std::fabs(p);
                }
                ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum, 1e-6 * size)
                    << bits << " bits g" << group << " n" << n << " k" << k << " m" << m;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(Tiles, RowsDoNotDependOnBatchOrPartition) {
  const int64_t k = 1320, m = 83;
  for (const int64_t n : {72, 64}) {  // rows of y that begin anywhere, and at cache lines
    const auto x = normals(static_cast<size_t>(m * k), 9);
    const auto q = random_quantized(4, 32, false, n, k, 11);
    const PackedBuffers weights = pack(q);
    const auto wf = normals(static_cast<size_t>(n * k), 10);
    const auto w = half(wf);
    const auto dense = [&](const std::vector<float>& inputs, int64_t count, int64_t middle) {
      const auto rows = rows_of(inputs, k);
      std::vector<float> y(static_cast<size_t>(count * n));
      const DenseView view{DType::kBF16, w.data(), n, k};
      table_->dense_bf16_bf16(view, rows.data(), nullptr, y.data(), n, count, 0, middle);
      table_->dense_bf16_bf16(view, rows.data(), nullptr, y.data(), n, count, middle, n);
      return y;
    };
    const auto all = packed(weights.view(q.format), x, m, nullptr);
    const auto all_dense = dense(x, m, 48);
    for (int64_t i = 0; i < m; ++i) {
      const std::vector<float> row(x.begin() + i * k, x.begin() + (i + 1) * k);
      const auto one = packed(weights.view(q.format), row, 1, nullptr);
      ASSERT_EQ(0, std::memcmp(one.data(), all.data() + i * n, static_cast<size_t>(n) * sizeof(float))) << i;
      const auto one_dense = dense(row, 1, 16);
      ASSERT_EQ(
          0, std::memcmp(one_dense.data(), all_dense.data() + i * n, static_cast<size_t>(n) * sizeof(float)))
          << i;
    }
  }
}

TEST_P(Tiles, DenseMatchesFloat64OnOddShapes) {
  for (const int64_t k : {1, 31, 33, 600, 2100}) {
    for (const int64_t n : {5, 16, 41}) {
      for (const int64_t m : {1, 9, 33}) {
        const auto xf = normals(static_cast<size_t>(m * k), 4), wf = normals(static_cast<size_t>(n * k), 5);
        const auto bias = normals(static_cast<size_t>(n), 6);
        const auto x = half(xf), w = half(wf);
        std::vector<float> y(static_cast<size_t>(m * n));
        table_->dense_bf16_bf16({DType::kBF16, w.data(), n, k}, rows_of(xf, k).data(), bias.data(), y.data(),
                                n, m, 0, n);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = bias[static_cast<size_t>(j)], size = std::fabs(sum);
            for (int64_t c = 0; c < k; ++c) {
              const double p = double{bf16_to_float(x[static_cast<size_t>(i * k + c)])} *
                               double{bf16_to_float(w[static_cast<size_t>(j * k + c)])};
              sum += p;
              size += std::fabs(p);
            }
            ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum, 1e-6 * size)
                << "n" << n << " k" << k << " m" << m;
          }
        }
      }
    }
  }
}

// Sums over rows of products of columns, added to what is there; nothing beside them is touched.
TEST_P(Tiles, GramOfColumnsMatchesFloat64) {
  const int64_t steps = 3;
  for (const auto& [columns_a, columns_b] : std::vector<std::pair<int64_t, int64_t>>{{32, 32}, {5, 19}}) {
    for (const int64_t rows : {96, 70, 33}) {
      const int64_t ldx = columns_a + columns_b + 3, ldy = columns_b + 2;
      const auto x = normals(static_cast<size_t>(rows * ldx), 41);
      const auto bf16 = [&](int64_t r, int64_t column) {
        return double{bf16_to_float(float_to_bf16(x[static_cast<size_t>(r * ldx + column)]))};
      };
      std::vector<uint16_t> a(static_cast<size_t>(steps * kGramStep), 0x7fc0), b(a);
      for (int64_t step = 0; step * kGramTile < rows; ++step) {
        const int64_t here = std::min<int64_t>(kGramTile, rows - step * kGramTile);
        const float* from = x.data() + step * kGramTile * ldx;
        table_->gram_step(from, ldx, here, columns_a, a.data(), step, steps);
        table_->gram_step(from + columns_a, ldx, here, columns_b, b.data(), step, steps);
      }
      const int64_t end = (rows + kGramTile - 1) / kGramTile;
      std::vector<float> y(static_cast<size_t>(columns_a * ldy), 2.0f);
      table_->gram_bf16(a.data(), b.data(), steps, end, y.data(), ldy, columns_a, columns_b);
      for (int64_t i = 0; i < columns_a; ++i) {
        for (int64_t j = 0; j < ldy; ++j) {
          double sum = 2, size = 2;
          for (int64_t r = 0; r < rows && j < columns_b; ++r) {
            const double p = bf16(r, i) * bf16(r, columns_a + j);
            sum += p;
            size += std::fabs(p);
          }
          ASSERT_NEAR(y[static_cast<size_t>(i * ldy + j)], sum, j < columns_b ? 1e-6 * size : 0.0)
              << columns_a << "x" << columns_b << " of " << rows << " rows: " << i << " " << j;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Tiles, ::testing::Values("played", "amx"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace nibble
