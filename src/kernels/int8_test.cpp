// Activations in int8: how rows are rounded, and products at the edges of what integers hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa_test.h"
#include "kernels/ops.h"
#include "random_matrices.h"
#include "tensor/packed.h"

namespace nibble {
namespace {

class Int8 : public IsaTest {
 protected:
  std::vector<float> product(const QuantizedMatrix& q, const float* x, int64_t m) {
    const PackedFormat& f = q.format;
    const PackedBuffers packed = pack(q);
    Int8Rows rows(m, f.k, f.group());
    for (int64_t i = 0; i < m; ++i) table_->quantize_i8(x + i * f.k, f.k, rows.view.row(i));
    std::vector<float> y(static_cast<size_t>(m * f.n)), scratch(static_cast<size_t>(packed_scratch(f.k)));
    table_->packed_i8(packed.view(f), rows.view, nullptr, y.data(), f.n, 0, f.panels(), scratch.data());
    return y;
  }
};

TEST_P(Int8, RowsAreRoundedToMultiplesOfTheirBlocksUnit) {
  for (const int64_t k : {1, 16, 100, 128, 300, 600}) {
    for (const int64_t group : {16, 64, 96, 128, 192, 1024}) {
      const int64_t m = 11;
      auto x = normals(static_cast<size_t>(m * k), 31);
      for (int64_t i = 0; i < m; i += 3) x[static_cast<size_t>(i * k + k / 2)] *= 1000;  // outliers
      std::fill_n(x.data() + 4 * k, k, 0.0f);                                            // a row of zeros
      Int8Rows rows(m, k, group);
      const ActI8View& view = rows.view;
      EXPECT_EQ(group < k ? group % view.block : 0, 0);
      for (int64_t i = 0; i < m; ++i) table_->quantize_i8(x.data() + i * k, k, view.row(i));
      for (int64_t i = 0; i < m; ++i) {
        const ActI8Row row = view.row(i);
        for (int64_t b = 0; b < view.blocks(); ++b) {
          double sum = 0;
          int64_t count = 0;
          const int64_t end = std::min((b + 1) * view.block, view.stride);
          for (int64_t c = b * view.block; c < end; ++c) {
            const int64_t s = c / kActSegment * row.tile;
            const int32_t step = row.steps[s] & 0xffff;
            const int code = row.codes[s * kActSegment + c % kActSegment];
            ASSERT_EQ(row.steps[s], step * 0x10001);
            ASSERT_GE(step, 1);
            ASSERT_LE(step, kActSteps);
            ASSERT_LE(std::abs(code), 127);
            ASSERT_FLOAT_EQ(row.scales[s], row.units[b * row.tile] * static_cast<float>(step));
            const double value = c < k ? double{x[static_cast<size_t>(i * k + c)]} : 0.0;
            ASSERT_NEAR(code * double{row.scales[s]}, value, 0.5001 * double{row.scales[s]})
                << "k" << k << " c" << c;
            sum += code * double{row.scales[s]};
            count += int64_t{code} * step;
          }
          ASSERT_NEAR(row.sums[b * row.tile], sum,
                      1e-5 * std::fabs(sum) + 1e-4 * double{row.units[b * row.tile]} * 127);
          ASSERT_EQ(row.counts[b * row.tile], count);
        }
      }
    }
  }
}

// The scale of a segment is its own largest value's, up to the unit: an outlier elsewhere costs at most a
// 511th of its own step.
TEST_P(Int8, AnOutlierLeavesOtherSegmentsTheirPrecision) {
  auto x = normals(128, 32);
  x[5] = 200;
  Int8Rows rows(1, 128, 128);
  table_->quantize_i8(x.data(), 128, rows.view.row(0));
  for (int64_t s = 1; s < 8; ++s) {
    float largest = 0;
    for (int64_t c = 0; c < kActSegment; ++c)
      largest = std::max(largest, std::fabs(x[static_cast<size_t>(s * kActSegment + c)]));
    EXPECT_LE(rows.view.scales[s], (largest + 200.0f / kActSteps) / 127 * 1.0001f);
  }
}

TEST_P(Int8, RowsDoNotDependOnBatch) {
  const int64_t n = 56, k = 1100, m = 19;  // two pairs of panels, the last not whole
  const auto x = normals(static_cast<size_t>(m * k), 9);
  const auto check = [&](const QuantizedMatrix& q) {
    const auto all = product(q, x.data(), m);
    for (const int64_t count : {1, 2, 5}) {
      for (int64_t i = 0; i + count <= m; i += count) {
        const auto few = product(q, x.data() + i * k, count);
        ASSERT_EQ(0, std::memcmp(few.data(), all.data() + i * n, few.size() * sizeof(float)))
            << q.format.bits << " bits, groups of " << q.format.group_size << ", " << count << " rows";
      }
    }
  };
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 64, 0}) {
      check(random_quantized(bits, group, true, n, k, 11));
      for (const ScaleType type : {ScaleType::kF16, ScaleType::kF32, ScaleType::kByte})
        check(random_quantized(bits, group, false, n, k, 11, type));
    }
  }
}

TEST_P(Int8, TheLargestProductsFit) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {64, 128, 0}) {
      for (const int zero : {0, 1}) {
        for (const float sign : {1.0f, -1.0f}) {
          auto q = random_quantized(bits, group, false, 16, 512, 3);
          const int top = q.format.max_code();
          std::fill(q.codes.begin(), q.codes.end(), static_cast<uint8_t>(zero ? 0 : top));
          std::fill(q.zeros.begin(), q.zeros.end(), static_cast<uint8_t>(zero ? top : 0));
          std::fill(q.scales.begin(), q.scales.end(), 0.5f);
          const std::vector<float> x(9 * 512, 3 * sign);
          const double want = 512.0 * 3 * static_cast<double>(sign) * 0.5 * (zero ? -top : top);
          for (const float y : product(q, x.data(), 9))
            ASSERT_NEAR(y, want, 1e-5 * std::fabs(want)) << bits << " bits";
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Int8, every_isa(), isa_name);

}  // namespace
}  // namespace nibble
