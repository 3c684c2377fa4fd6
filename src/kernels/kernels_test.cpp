// Every kernel of every instruction set that this processor has, against float64 loops.
#include "kernels/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa_test.h"
#include "kernels/bf16_rows.h"
#include "random_matrices.h"
#include "tensor/packed.h"

namespace nibble {
namespace {

class Kernels : public IsaTest {};

TEST_P(Kernels, DenseMatchesFloat64OnOddShapes) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t k : {1, 7, 31, 64, 100, 600, 1111}) {
      for (const int64_t n : {1, 3, 16, 29}) {
        for (const int64_t m : {1, 2, 7, 8, 33}) {
          const auto x = normals(static_cast<size_t>(m * (k + 3)), 1),
                     wf = normals(static_cast<size_t>(n * k), 2);
          const auto bias = normals(static_cast<size_t>(n), 3);
          std::vector<uint16_t> half(wf.size());
          for (size_t i = 0; i < wf.size(); ++i)
            half[i] = dtype == DType::kBF16 ? float_to_bf16(wf[i]) : float_to_fp16(wf[i]);
          const DenseView w{dtype, dtype == DType::kF32 ? static_cast<const void*>(wf.data()) : half.data(),
                            n, k};
          const auto value = [&](int64_t i) {
            const size_t at = static_cast<size_t>(i);
            return dtype == DType::kF32    ? wf[at]
                   : dtype == DType::kBF16 ? bf16_to_float(half[at])
                                           : fp16_to_float(half[at]);
          };
          std::vector<float> y(static_cast<size_t>(m * n), -1);
          const auto fn = dtype == DType::kF32    ? table_->dense_f32
                          : dtype == DType::kBF16 ? table_->dense_bf16
                                                  : table_->dense_f16;
          const int64_t middle = n / 2;
          fn(w, x.data(), k + 3, bias.data(), y.data(), n, m, 0, middle);
          fn(w, x.data(), k + 3, bias.data(), y.data(), n, m, middle, n);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double sum = bias[static_cast<size_t>(j)], size = std::fabs(sum);
              for (int64_t c = 0; c < k; ++c) {
                const double p = double{x[static_cast<size_t>(i * (k + 3) + c)]} * double{value(j * k + c)};
                sum += p;
                size += std::fabs(p);
              }
              ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum, 2e-7 * size * 4)
                  << dtype_name(dtype) << " m" << m << " n" << n << " k" << k;
            }
          }
        }
      }
    }
  }
}

TEST_P(Kernels, DenseBf16PairsMatchFloat64) {
  if (!table_->dense_bf16_bf16) GTEST_SKIP() << "no bf16 dot product here";
  for (const int64_t k : {1, 31, 33, 600, 2100}) {
    const int64_t n = 5, m = 9;
    const auto xf = normals(static_cast<size_t>(m * k), 4), wf = normals(static_cast<size_t>(n * k), 5);
    std::vector<uint16_t> x(xf.size()), w(wf.size());
    table_->to_bf16(xf.data(), x.data(), m * k);
    table_->to_bf16(wf.data(), w.data(), n * k);
    std::vector<uint16_t> rows(static_cast<size_t>(bf16_values(*table_, m, k)));
    to_bf16_rows(*table_, xf.data(), k, 0, m, rows.data());
    std::vector<float> y(static_cast<size_t>(m * n));
    table_->dense_bf16_bf16({DType::kBF16, w.data(), n, k}, rows.data(), nullptr, y.data(), n, m, 0, n);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int64_t c = 0; c < k; ++c) {
          const double p = double{bf16_to_float(x[static_cast<size_t>(i * k + c)])} *
                           double{bf16_to_float(w[static_cast<size_t>(j * k + c)])};
          sum += p;
          size += std::fabs(p);
        }
        ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum, 1e-6 * size) << "k" << k;
      }
    }
  }
}

TEST_P(Kernels, PackedMatchesFloat64ForEveryFormat) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 64, 128, 0, 96}) {
      for (const bool symmetric : {false, true}) {
        for (const auto& [n, k] :
             std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 100}, {33, 256}, {8, 600}, {47, 129}}) {
          const ScaleType scales = n == 17 || n == 8                    ? ScaleType::kF32
                                   : !symmetric && (n == 33 || n == 47) ? ScaleType::kByte
                                                                        : ScaleType::kF16;
          const auto q = random_quantized(bits, group, symmetric, n, k,
                                          static_cast<uint64_t>(bits * 1000 + group), scales);
          const PackedBuffers packed = pack(q);
          const PackedView w = packed.view(q.format);
          const auto bias = normals(static_cast<size_t>(n), 7);
          for (const int64_t m : {1, 2, 7, 8, 33}) {
            const auto x = normals(static_cast<size_t>(m * k), 8);
            std::vector<float> y(static_cast<size_t>(m * n)), scratch(static_cast<size_t>(packed_scratch(k)));
            const int64_t panels = q.format.panels(), half = panels / 2;
            table_->packed_f32(w, x.data(), k, bias.data(), y.data(), n, m, 0, half, scratch.data());
            table_->packed_f32(w, x.data(), k, bias.data(), y.data(), n, m, half, panels, scratch.data());
            Int8Rows acts(m, k, q.format.group());
            const ActI8View& act = acts.view;
            for (int64_t i = 0; i < m; ++i) table_->quantize_i8(x.data() + i * k, k, act.row(i));
            std::vector<float> y8(y.size());
            table_->packed_i8(w, act, bias.data(), y8.data(), n, 0, half, scratch.data());
            table_->packed_i8(w, act, bias.data(), y8.data(), n, half, panels, scratch.data());
            for (int64_t i = 0; i < m; ++i) {
              const ActI8Row row = act.row(i);
              for (int64_t j = 0; j < n; ++j) {
                double sum = bias[static_cast<size_t>(j)], size = std::fabs(sum), sum8 = sum;
                for (int64_t c = 0; c < k; ++c) {
                  const double v = q.value(j, c), p = v * double{x[static_cast<size_t>(i * k + c)]};
                  sum += p;
                  size += std::fabs(p);
                  const int64_t segment = c / kActSegment * row.tile;
                  sum8 +=
                      v * row.codes[segment * kActSegment + c % kActSegment] * double{row.scales[segment]};
                }
                const size_t at = static_cast<size_t>(i * n + j);
                ASSERT_NEAR(y[at], sum, 1e-6 * size)
                    << bits << " bits g" << group << " n" << n << " k" << k << " m" << m;
                ASSERT_NEAR(y8[at], sum8, 1e-5 * size + 1e-6)
                    << bits << " bits g" << group << " n" << n << " k" << k << " m" << m;
              }
            }
          }
        }
      }
    }
  }
}

// Few rows read weights in the order of memory, more widen 16-bit ones once, many take them by columns.
TEST_P(Kernels, RowsDoNotDependOnBatchOrPartition) {
  const int64_t n = 43, k = 1100, m = 60;
  const auto x = normals(static_cast<size_t>(m * k), 9), wf = normals(static_cast<size_t>(n * k), 10);
  std::vector<uint16_t> half(wf.size());
  table_->to_bf16(wf.data(), half.data(), n * k);
  const auto q = random_quantized(4, 32, false, n, k, 11);
  const PackedBuffers packed = pack(q);
  std::vector<float> scratch(static_cast<size_t>(packed_scratch(k)));
  const auto in_two = [&](const auto& kernel, DType dtype, const void* w) {
    return [&kernel, dtype, w, n, k](const float* rows, int64_t count, float* y) {
      kernel({dtype, w, n, k}, rows, k, nullptr, y, n, count, 0, 24);
      kernel({dtype, w, n, k}, rows, k, nullptr, y, n, count, 24, n);
    };
  };
  const auto quantized = [&](const float* rows, int64_t count, float* y) {
    table_->packed_f32(packed.view(q.format), rows, k, nullptr, y, n, count, 0, q.format.panels(),
                       scratch.data());
  };
  const auto check = [&](const char* what, const auto& whole, const auto& alone) {
    std::vector<float> one(static_cast<size_t>(m * n)), all(one.size());
    for (int64_t i = 0; i < m; ++i) alone(x.data() + i * k, 1, one.data() + i * n);
    for (const int64_t count : {2, 7, 13, 37, 60}) {
      whole(x.data(), count, all.data());
      ASSERT_EQ(0, std::memcmp(one.data(), all.data(), static_cast<size_t>(count * n) * sizeof(float)))
          << what << ", " << count << " rows";
    }
  };
  check("float32", in_two(table_->dense_f32, DType::kF32, wf.data()),
        [&](const float* rows, int64_t count, float* y) {
          table_->dense_f32({DType::kF32, wf.data(), n, k}, rows, k, nullptr, y, n, count, 0, n);
        });
  check("bfloat16", in_two(table_->dense_bf16, DType::kBF16, half.data()),
        [&](const float* rows, int64_t count, float* y) {
          table_->dense_bf16({DType::kBF16, half.data(), n, k}, rows, k, nullptr, y, n, count, 0, n);
        });
  check("packed", quantized, quantized);
}

TEST_P(Kernels, ElementwiseMatchesFloat64) {
  for (const int64_t n : {1, 5, 16, 63, 200}) {
    const size_t size = static_cast<size_t>(n);
    const auto x = normals(size, 20, 4), w = normals(size, 21), b = normals(size, 22);
    std::vector<float> y(size);
    double squares = 0, mean = 0, variance = 0;
    for (float v : x) squares += double{v} * v, mean += v;
    mean /= static_cast<double>(n);
    for (float v : x) variance += (v - mean) * (v - mean);
    table_->rms_norm(x.data(), w.data(), y.data(), n, 1e-6f);
    for (size_t i = 0; i < size; ++i)
      EXPECT_NEAR(y[i], x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-6) * w[i], 1e-5);
    table_->layer_norm(x.data(), w.data(), b.data(), y.data(), n, 1e-5f);
    for (size_t i = 0; i < size; ++i)
      EXPECT_NEAR(y[i], (x[i] - mean) / std::sqrt(variance / static_cast<double>(n) + 1e-5) * w[i] + b[i],
                  2e-5);
    table_->silu_mul(x.data(), w.data(), y.data(), n);
    for (size_t i = 0; i < size; ++i) EXPECT_NEAR(y[i], x[i] / (1 + std::exp(-double{x[i]})) * w[i], 4e-6);
    table_->gelu_new(x.data(), y.data(), n);
    for (size_t i = 0; i < size; ++i) {
      const double v = x[i], u = 0.7978845608028654 * (v + 0.044715 * v * v * v);
      EXPECT_NEAR(y[i], 0.5 * v * (1 + std::tanh(u)), 4e-6);
    }
    const float top = *std::max_element(x.begin(), x.end());
    EXPECT_EQ(table_->max(x.data(), n), top);
    y = x;
    y[size / 2] = -INFINITY;
    double sum = 0;
    for (float v : y) sum += std::exp(double{v} - top);
    EXPECT_NEAR(table_->exp_sum(y.data(), n, top), sum, 1e-6 * sum);
    EXPECT_EQ(y[size / 2], 0.0f);
    y = b;
    table_->axpy(y.data(), 0.5f, x.data(), n);
    table_->scale_add(y.data(), 2.0f, w.data(), n);
    table_->add(y.data(), w.data(), n);
    for (size_t i = 0; i < size; ++i) EXPECT_NEAR(y[i], (b[i] + 0.5 * x[i]) * 2 + 2.0 * w[i], 1e-5);
    const auto rows = normals(size * 64, 23), weights = normals(7 * 70, 24);
    std::vector<float> sums(7 * size);
    table_->weighted_sums(weights.data(), 70, 7, rows.data(), 64, sums.data(), n);
    for (size_t r = 0; r < 7; ++r) {
      for (size_t i = 0; i < size; ++i) {
        double expected = 0;
        for (size_t j = 0; j < 64; ++j) expected += double{weights[r * 70 + j]} * double{rows[j * size + i]};
        EXPECT_NEAR(sums[r * size + i], expected, 3e-5);
      }
      table_->weighted_sums(weights.data() + r * 70, 70, 1, rows.data(), 64, y.data(), n);
      EXPECT_EQ(0, std::memcmp(y.data(), sums.data() + r * size, size * sizeof(float)));
    }
  }
}

TEST_P(Kernels, SixteenBitConversionsRoundAsTheScalarOnes) {
  std::vector<float> x = normals(4000, 30, 1000);
  for (float special :
       {0.0f, -0.0f, 1e-7f, 6e-8f, 3e-8f, 65504.0f, 65519.9f, 65520.0f, 1e30f, INFINITY, -INFINITY})
    x.push_back(special);
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<uint16_t> y(x.size());
  table_->to_f16(x.data(), y.data(), n);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], float_to_fp16(x[i])) << x[i];
  std::vector<float> back(x.size());
  table_->from_f16(y.data(), back.data(), n);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(back[i], fp16_to_float(y[i])) << x[i];
  table_->to_bf16(x.data(), y.data(), n);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], float_to_bf16(x[i])) << x[i];
}

TEST_P(Kernels, ProductsOfInt16ColumnsAreExact) {
  Random random(40);
  for (const int64_t pairs : {1, 2, 7, 256}) {
    const size_t size = static_cast<size_t>(pairs) * kGramPanel * 2;
    const int limit = static_cast<int>(std::sqrt(2147483647.0 / static_cast<double>(2 * pairs)));
    std::vector<int16_t> a(size), b(size);
    for (size_t i = 0; i < size; ++i) {
      a[i] = static_cast<int16_t>(i % 5 == 0 ? limit : (random.uniform() * 2 - 1) * limit);
      b[i] = static_cast<int16_t>(i % 5 == 0 ? -limit : (random.uniform() * 2 - 1) * limit);
    }
    std::vector<int32_t> out(kGramPanel * kGramPanel);
    table_->products_i16(a.data(), b.data(), 1, pairs, out.data());
    for (size_t r = 0; r < kGramPanel; ++r) {
      for (size_t c = 0; c < kGramPanel; ++c) {
        int64_t sum = 0;
        for (size_t p = 0; p < static_cast<size_t>(pairs); ++p) {
          for (size_t i = 0; i < 2; ++i)
            sum += int64_t{a[(p * kGramPanel + r) * 2 + i]} * b[(p * kGramPanel + c) * 2 + i];
        }
        ASSERT_EQ(out[r * kGramPanel + c], sum) << pairs;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Kernels, every_isa(), isa_name);

TEST(Packed, RoundTripsEveryFormat) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const bool symmetric : {false, true}) {
      for (const ScaleType scales : {ScaleType::kF16, ScaleType::kF32, ScaleType::kByte}) {
        if (symmetric && scales == ScaleType::kByte) continue;
        const auto q = random_quantized(bits, 32, symmetric, 21, 77, 5, scales);
        const auto back = unpack(pack(q).view(q.format));
        EXPECT_EQ(back.codes, q.codes);
        EXPECT_EQ(back.scales, q.scales);
        EXPECT_EQ(back.zeros, q.zeros);
      }
    }
  }
}

// Bytes reach the largest scale of a row with the finest unit that can, and never round a scale to 0.
TEST(Packed, ByteScalesAreMultiplesOfAPowerOfTwoThatFp16Holds) {
  for (const float largest : {1e-12f, 3e-5f, 0.0116f, 0.4981f, 255.0f, 256.0f, 65280.0f, 1e9f}) {
    const float unit = scale_unit(largest);
    int exponent = 0;
    EXPECT_EQ(std::frexp(unit, &exponent), 0.5f);
    const bool in_range = largest > 255 * 0x1.0p-24f && largest <= 255 * 0x1.0p8f;
    if (in_range) {
      EXPECT_GE(255 * unit, largest);
      EXPECT_LT(255 * unit / 2, largest);
    }
    for (const float share : {1.0f, 0.51f, 0.013f, 1e-6f}) {
      const float scale = rounded_scale(share * largest, ScaleType::kByte, unit);
      EXPECT_GT(scale, 0);
      EXPECT_EQ(scale, rounded_to_fp16(scale));
      if (in_range && share * largest >= unit) {
        EXPECT_LE(std::fabs(scale - share * largest), unit / 2);
      }
    }
  }
  EXPECT_EQ(rounded_scale(0, ScaleType::kByte, 1), 0);
}

TEST(Packed, SizesAreTheBitsThatTheFormatSays) {
  const PackedFormat f{4, 64, false, 1024, 2048};
  EXPECT_EQ(f.bytes() * 8, 1024 * 2048 * 4 + 1024 * 32 * (16 + 4));
  const PackedFormat bytes{.n = 1024, .k = 2048, .scale_type = ScaleType::kByte};
  EXPECT_EQ(bytes.bytes() * 8, 1024 * 2048 * 4 + 1024 * 32 * (8 + 4) + 1024 * 8);
  EXPECT_THROW((PackedFormat{.symmetric = true, .n = 4, .k = 4, .scale_type = ScaleType::kByte}.validate()),
               Error);
  EXPECT_THROW((PackedFormat{5, 64, false, 4, 4}.validate()), Error);
  EXPECT_THROW((PackedFormat{4, 24, false, 4, 4}.validate()), Error);
  EXPECT_THROW((PackedFormat{4, 16, false, 0, 4}.validate()), Error);
}

}  // namespace
}  // namespace nibble
