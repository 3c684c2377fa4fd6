// The quantizers against float64 loops of the published algorithms, and where things go wrong.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "kernels/ops.h"
#include "quant/gptq.h"
#include "quant/grid.h"
#include "quant/layer.h"
#include "quant/linalg.h"
#include "quant/methods.h"
#include "quant/scaling.h"
#include "quant/statistics.h"

namespace nibble {
namespace {

ThreadPool& pool() {
  static ThreadPool p(2);
  return p;
}

std::vector<float> normals(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& v : out) {
    v = 0;
    for (int i = 0; i < 4; ++i) v += static_cast<float>(random.uniform() - 0.5);
  }
  return out;
}

// Activations with correlated channels of very different size, as in a language model.
InputStatistics activations(int64_t k, int64_t tokens, uint64_t seed) {
  std::vector<float> x = normals(static_cast<size_t>(k * tokens), seed),
                     shared = normals(static_cast<size_t>(tokens), seed + 1);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      float& v = x[static_cast<size_t>(t * k + i)];
      v = (v + 0.7f * shared[static_cast<size_t>(t)]) * (i % 17 == 3 ? 12.0f : 1.0f);
    }
  }
  StatisticsCollector collector(k, tokens, pool());
  collector.add(x.data(), tokens);
  return collector.finish();
}

// Upper U with A⁻¹ = Uᵀ·U, by Gauss-Jordan and a plain Cholesky in float64.
std::vector<double> reference_factor(std::vector<double> a, int64_t k) {
  const size_t n = static_cast<size_t>(k);
  std::vector<double> inverse(n * n, 0.0), u(n * n, 0.0);
  for (size_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (size_t c = 0; c < n; ++c) {
    const double pivot = a[c * n + c];
    for (size_t j = 0; j < n; ++j) a[c * n + j] /= pivot, inverse[c * n + j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      const double factor = a[r * n + c];
      if (r == c || factor == 0) continue;
      for (size_t j = 0; j < n; ++j)
        a[r * n + j] -= factor * a[c * n + j], inverse[r * n + j] -= factor * inverse[c * n + j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      double sum = inverse[i * n + j];
      for (size_t p = 0; p < i; ++p) sum -= u[p * n + i] * u[p * n + j];
      u[i * n + j] = i == j ? std::sqrt(sum) : sum / u[i * n + i];
    }
  }
  return u;
}

std::vector<double> hessian(const InputStatistics& input, double damp) {
  std::vector<double> h(input.gram.begin(), input.gram.end());
  const size_t k = static_cast<size_t>(input.k);
  double mean = 0;
  for (double& v : h) v /= static_cast<double>(input.tokens);
  for (size_t i = 0; i < k; ++i) mean += h[i * k + i] / static_cast<double>(k);
  for (size_t i = 0; i < k; ++i) {
    if (h[i * k + i] == 0) h[i * k + i] = 1;
    h[i * k + i] += damp * mean;
  }
  return h;
}

// Algorithm 1 of arXiv:2210.17323 one column at a time, without lazy blocks.
QuantizedMatrix reference_gptq(const std::vector<float>& weight, const std::vector<double>& u,
                               const PackedFormat& f) {
  QuantizedMatrix m(f);
  std::vector<float> cost;
  for (int64_t i = 0; i < f.k; ++i) {
    const double d = u[static_cast<size_t>(i * f.k + i)];
    cost.push_back(static_cast<float>(1 / (d * d)));
  }
  for (int64_t row = 0; row < f.n; ++row) {
    std::vector<double> w(weight.begin() + row * f.k, weight.begin() + (row + 1) * f.k);
    Grid grid;
    for (int64_t i = 0; i < f.k; ++i) {
      const size_t g = static_cast<size_t>(row * f.groups() + i / f.group());
      if (i % f.group() == 0) {
        const int64_t count = std::min(f.group(), f.k - i);
        const std::vector<float> values(w.begin() + i, w.begin() + i + count);
        grid = fit_weighted(values, {cost.data() + i, static_cast<size_t>(count)}, f, 0);
        m.scales[g] = grid.scale;
        m.zeros[g] = static_cast<uint8_t>(grid.zero);
      }
      const int code = grid.code(static_cast<float>(w[static_cast<size_t>(i)]), f.max_code());
      m.codes[static_cast<size_t>(row * f.k + i)] = static_cast<uint8_t>(code);
      const double error =
          (w[static_cast<size_t>(i)] - double{grid.value(code)}) / u[static_cast<size_t>(i * f.k + i)];
      for (int64_t j = i + 1; j < f.k; ++j)
        w[static_cast<size_t>(j)] -= error * u[static_cast<size_t>(i * f.k + j)];
    }
  }
  return m;
}

struct Problem {
  int64_t n, k;
  int group, bits;
  bool symmetric;
};

TEST(LinearAlgebra, ItsKernelsAreOfThisProcessor) {
  if (!kernels_named("avx2")) GTEST_SKIP() << "no AVX2 here";
  EXPECT_NE(blas_kernels(), "Prescott");
}

TEST(Gptq, MatchesThePublishedAlgorithm) {
  for (const Problem& p : {Problem{64, 256, 32, 4, false},
                           {256, 100, 32, 4, false},
                           {48, 600, 64, 4, true},
                           {16, 1, 16, 4, false},
                           {20, 96, 0, 3, true},
                           {33, 300, 96, 2, false},
                           {8, 257, 128, 8, false}}) {
    const auto input = activations(p.k, 3 * p.k + 5, 11);
    const auto weight = normals(static_cast<size_t>(p.n * p.k), 12);
    const PackedFormat f{p.bits, p.group, p.symmetric, p.n, p.k};
    const auto expected = reference_gptq(weight, reference_factor(hessian(input, 0.01), p.k), f);
    const Quantized got = quantize_gptq(weight, input, {f, 0.01, false, true, false}, pool());
    EXPECT_EQ(got.note, "");
    EXPECT_EQ(got.damp_used, 0.01);
    // A value that lies between two codes to the last bit of float32 may go either way and take the
    // rest of its row along: whole rows are counted.
    int64_t different = 0;
    for (int64_t row = 0; row < p.n; ++row)
      different += !std::equal(expected.codes.begin() + row * p.k, expected.codes.begin() + (row + 1) * p.k,
                               got.matrix.codes.begin() + row * p.k);
    EXPECT_LE(different, 1 + p.n / 16) << "n" << p.n << " k" << p.k << " g" << p.group;
    const double theirs = relative_output_error(weight, dequantize(expected, pool()), p.n, input, pool());
    const double ours = relative_output_error(weight, dequantize(got.matrix, pool()), p.n, input, pool());
    EXPECT_NEAR(ours, theirs, 0.01 * theirs) << "n" << p.n << " k" << p.k << " g" << p.group;
  }
}

TEST(Gptq, LosesLessThanRoundingWithAndWithoutActOrder) {
  for (const int64_t k : {100, 256, 600}) {
    const auto input = activations(k, 2000, 21);
    const auto weight = normals(static_cast<size_t>(64 * k), 22);
    const PackedFormat f{4, 64, false, 64, k};
    const auto error = [&](const Quantized& q) {
      return relative_output_error(weight, dequantize(q.matrix, pool()), 64, input, pool());
    };
    const double rounded = error(quantize_rtn(weight, input, {f, 0, false, true}, pool()));
    EXPECT_LT(error(quantize_gptq(weight, input, {f, 0.01, false, true}, pool())), 0.8 * rounded);
    EXPECT_LT(error(quantize_gptq(weight, input, {f, 0.01, true, true}, pool())), 0.8 * rounded);
    EXPECT_LT(error(quantize_clipped(weight, input, {f, 0, false, true}, pool())), rounded);
  }
}

TEST(Gptq, IsTheSameForAnyNumberOfThreads) {
  const auto input = activations(300, 900, 31);
  const auto weight = normals(37 * 300, 32);
  const MethodOptions options{{4, 32, false, 37, 300}, 0.01, false, true};
  ThreadPool one(1), three(3);
  const auto a = quantize_gptq(weight, input, options, one), b = quantize_gptq(weight, input, options, three);
  EXPECT_EQ(a.matrix.codes, b.matrix.codes);
  EXPECT_EQ(a.matrix.scales, b.matrix.scales);
}

void expect_finite(const QuantizedMatrix& m) {
  for (const float v : dequantize(m, pool())) ASSERT_TRUE(std::isfinite(v));
}

TEST(HostileLayers, DeadInputsAndZeroGroups) {
  const int64_t k = 96, n = 24, tokens = 500;
  std::vector<float> x = normals(static_cast<size_t>(k * tokens), 41);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 40; i < 50; ++i) x[static_cast<size_t>(t * k + i)] = 0;
  }
  StatisticsCollector collector(k, tokens, pool());
  collector.add(x.data(), tokens);
  const auto input = collector.finish();
  std::vector<float> weight = normals(static_cast<size_t>(n * k), 42);
  for (int64_t row = 0; row < n; ++row) std::fill_n(weight.begin() + row * k + 64, 32, 0.0f);
  const Quantized q = quantize_gptq(weight, input, {{4, 32, false, n, k}, 0.01, false, true}, pool());
  EXPECT_NE(q.note.find("10 of 96 inputs never active"), std::string::npos) << q.note;
  expect_finite(q.matrix);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 40; i < 50; ++i) EXPECT_EQ(q.matrix.value(row, i), 0.0f);
  }
  const std::vector<float> zeros(static_cast<size_t>(n * k), 0.0f);
  for (const bool symmetric : {false, true}) {
    const MethodOptions options{{4, 32, symmetric, n, k}, 0.01, false, true};
    for (const Method& method : methods()) {
      for (const float v : dequantize(method.quantize(zeros, input, options, pool()).matrix, pool()))
        ASSERT_EQ(v, 0.0f);
    }
  }
}

TEST(HostileLayers, SingularHessians) {
  const auto weight = normals(16 * 64, 51);
  const MethodOptions options{{4, 32, false, 16, 64}, 0.0, false, true};
  const Quantized few =
      quantize_gptq(weight, activations(64, 3, 52), options, pool());  // rank 3 of 64, no damping
  EXPECT_GT(few.damp_used, 0);
  EXPECT_NE(few.note.find("damping"), std::string::npos) << few.note;
  expect_finite(few.matrix);
  InputStatistics bad = activations(64, 200, 53);
  for (size_t i = 0; i < 64; ++i) bad.gram[i * 64 + i] *= -1;  // not a Gram matrix at all
  const Quantized broken = quantize_gptq(weight, bad, options, pool());
  EXPECT_TRUE(broken.fell_back);
  EXPECT_NE(broken.note.find("could not be inverted"), std::string::npos) << broken.note;
  expect_finite(broken.matrix);
}

TEST(HostileLayers, NotANumberInWeightsAndActivations) {
  const auto input = activations(64, 300, 61);
  auto weight = normals(16 * 64, 62);
  weight[5] = std::numeric_limits<float>::quiet_NaN();
  weight[70] = std::numeric_limits<float>::infinity();
  InputStatistics poisoned = input;
  poisoned.gram[65] = std::numeric_limits<float>::quiet_NaN();
  poisoned.finite = false;
  for (const Method& method : methods()) {
    LayerPlan plan;
    plan.method = method.name;
    plan.group_size = 32;
    const auto cleaned = quantize_layer("layer", weight, 16, input, plan, std::nullopt, {}, pool());
    EXPECT_NE(cleaned.report.reason.find("2 NaN or infinite weights"), std::string::npos)
        << cleaned.report.reason;
    expect_finite(cleaned.matrix.value());
    const auto blind = quantize_layer("layer", weight, 16, poisoned, plan, std::nullopt, {}, pool());
    expect_finite(blind.matrix.value());
    EXPECT_FALSE(blind.report.error.has_value());
    if (method.needs_calibration) {
      EXPECT_EQ(blind.report.fallback, "rtn");
      EXPECT_NE(blind.report.reason.find("activations"), std::string::npos) << blind.report.reason;
    }
  }
}

TEST(HostileLayers, HugeAndTinyWeightsStayFinite) {
  const auto input = activations(48, 300, 71);
  for (const float size : {1e-30f, 1e-9f, 1e6f, 1e30f}) {
    auto weight = normals(8 * 48, 72);
    for (float& w : weight) w *= size;
    for (const Method& method : methods())
      expect_finite(
          method.quantize(weight, input, {{4, 16, false, 8, 48}, 0.01, false, true}, pool()).matrix);
  }
}

TEST(Layer, BrokenLayersTakeSmallerGroupsThenMoreBits) {
  const auto input = activations(128, 500, 81);
  const auto weight = normals(16 * 128, 82);
  LayerPlan plan{"rtn", 2, 128, false};
  LayerOptions options;
  const auto as_planned =
      quantize_layer("layer", weight, 16, input, plan, std::nullopt, {.error_limit = 1e9}, pool());
  EXPECT_EQ(as_planned.report.fallback, "");
  options.error_limit = *as_planned.report.error * 0.9;
  const auto smaller = quantize_layer("layer", weight, 16, input, plan, std::nullopt, options, pool());
  EXPECT_LT(smaller.report.used.group_size, 128);
  EXPECT_EQ(smaller.report.used.bits, 2);
  EXPECT_NE(smaller.report.fallback.find("group size"), std::string::npos);
  EXPECT_NE(smaller.report.reason.find("above the limit"), std::string::npos);
  options.error_limit = 1e-3;
  EXPECT_EQ(quantize_layer("layer", weight, 16, input, plan, std::nullopt, options, pool()).report.fallback,
            "8 bits");
  options.error_limit = 1e-12;
  const auto none = quantize_layer("layer", weight, 16, input, plan, std::nullopt, options, pool());
  EXPECT_EQ(none.report.fallback, "16 bits");
  EXPECT_FALSE(none.matrix.has_value());
}

TEST(Grid, SpansItsValuesAndRoundsToTheNearest) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const bool symmetric : {false, true}) {
      const PackedFormat f{bits, 32, symmetric, 1, 32};
      const auto values = normals(32, 91);
      const Grid grid = fit_range(values, f, 0);
      for (const float v : values) {
        // One end of a symmetric grid is a step short; fp16 rounds the scale by up to 2^-11 of the range.
        const float slack = (symmetric ? 1.0f : 0.5f) * std::fabs(grid.scale) * 1.02f + 0.001f;
        EXPECT_LE(std::fabs(v - grid.value(grid.code(v, f.max_code()))), slack) << bits << symmetric;
      }
    }
  }
}

// By every method: scales of bytes are within their steps of the fp16 ones, and cost next to nothing.
TEST(Grid, ScalesOfBytesLoseNextToNothing) {
  const auto input = activations(128, 800, 111);
  const auto weight = normals(48 * 128, 112);
  for (const char* method : {"rtn", "gptq", "gsq"}) {
    LayerPlan plan{method, 4, 32, false};
    const QuantizedLayer half = quantize_layer("layer", weight, 48, input, plan, std::nullopt, {}, pool());
    plan.scale_bits = 8;
    const QuantizedLayer bytes = quantize_layer("layer", weight, 48, input, plan, std::nullopt, {}, pool());
    EXPECT_LT(*bytes.report.error, 1.03 * *half.report.error) << method;
    EXPECT_EQ(bytes.report.used.scale_bits, 8);
    const QuantizedMatrix& m = *bytes.matrix;
    EXPECT_EQ(unpack(pack(m).view(m.format)).scales, m.scales) << method;
    EXPECT_NE(m.scales, half.matrix->scales) << method;
  }
}

TEST(Scaling, FindsScalesThatLowerTheErrorAndFoldBack) {
  const auto input = activations(128, 800, 101);
  const auto weight = normals(48 * 128, 102);
  const PackedFormat f{4, 64, false, 48, 128};
  std::vector<int> channels(128);
  std::iota(channels.begin(), channels.end(), 0);
  const std::vector<ScaledLinear> linears = {{weight, f}};
  const ChannelScales scales = search_scales(linears, input, channels, 128, pool());
  EXPECT_FALSE(scales.identity());
  auto scaled = weight;
  scale_inputs(scaled, channels, scales);
  const auto seen = divide_input(input, channels, scales);
  const double rounded = relative_output_error(
      weight, dequantize(quantize_rtn(weight, input, {f, 0, false, true}, pool()).matrix, pool()), 48, input,
      pool());
  const double with_scales = relative_output_error(
      scaled, dequantize(quantize_rtn(scaled, seen, {f, 0, false, true}, pool()).matrix, pool()), 48, seen,
      pool());
  EXPECT_LT(with_scales, 0.9 * rounded);
  scale_inputs(scaled, channels, scales, true);
  for (size_t i = 0; i < weight.size(); ++i)
    ASSERT_NEAR(scaled[i], weight[i], 1e-6f + 1e-6f * std::fabs(weight[i]));
}

TEST(Plan, RulesChangeWhatTheyName) {
  Plan plan;
  plan.base.scale_bits = 8;
  Plan::Rule& down = plan.rules.emplace_back("down_proj");
  down.bits = 8;
  down.group_size = 32;
  Plan::Rule& first_layer = plan.rules.emplace_back("layers\\.0\\.");
  first_layer.method = "rtn";
  first_layer.symmetric = true;
  const LayerPlan first = plan.layer("model.layers.0.mlp.down_proj"),
                  other = plan.layer("model.layers.3.mlp.up_proj");
  EXPECT_EQ(first.method, "rtn");
  EXPECT_EQ(first.bits, 8);
  EXPECT_EQ(first.group_size, 32);
  EXPECT_TRUE(first.symmetric);
  EXPECT_EQ(first.scale_bits, 16);
  EXPECT_EQ(other.bits, 4);
  EXPECT_EQ(other.scale_bits, 8);
  EXPECT_NO_THROW(plan.validate());
  plan.rules[1].scale_bits = 8;
  EXPECT_THROW(plan.validate(), UsageError);
  plan.rules[1].scale_bits.reset();
  plan.rules[0].bits = 5;
  EXPECT_THROW(plan.validate(), UsageError);
  EXPECT_THROW(Plan::Rule("(["), Error);
  EXPECT_THROW(Plan::Rule(std::string(1 << 20, '(')), Error);
}

}  // namespace
}  // namespace nibble
