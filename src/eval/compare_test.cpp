#include "eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "test_data.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> row_of(const Json& json) {
  std::vector<float> row;
  for (const Json& value : json) row.push_back(value == -1e30 ? -kInfinity : value.get<float>());
  return row;
}

void expect_same(const Json& found, const Json& expected, const std::string& path = "") {
  if (expected.is_object()) {
    EXPECT_EQ(found.size(), expected.size()) << path;
    for (const auto& [key, value] : expected.items()) {
      ASSERT_TRUE(found.contains(key)) << path << "/" << key;
      expect_same(found[key], value, path + "/" + key);
    }
  } else {
    EXPECT_NEAR(found.get<double>(), expected.get<double>(), 1e-9) << path;
  }
}

TEST(Compare, AgreesWithNumPy) {
  const Json golden = read_json_file(testing::source_dir() / "tests" / "golden" / "compare.json");
  ComparisonBuilder builder;
  for (size_t w = 0; w < golden["true"].size(); ++w) {
    for (size_t i = 0; i < golden["true"][w].size(); ++i) {
      const auto base = row_of(golden["base"][w][i]), quant = row_of(golden["quant"][w][i]);
      const PositionDistance d = position_distance(base, quant, golden["true"][w][i]);
      EXPECT_NEAR(d.kl, golden["kl"][w][i].get<double>(), 1e-10);
      EXPECT_NEAR(d.nll_base, golden["nll_base"][w][i].get<double>(), 1e-10);
      EXPECT_NEAR(d.nll_quant, golden["nll_quant"][w][i].get<double>(), 1e-10);
      builder.add(w, d);
    }
  }
  Comparison result = builder.result();
  result.window = 2 * static_cast<int>(golden["true"][0].size());  // its second half is scored
  expect_same(Json::parse(to_json(result).dump()), golden["result"]);
}

TEST(Compare, AModelWithItselfIsAtDistanceZero) {
  ComparisonBuilder builder;
  for (size_t w = 0; w < 3; ++w) {
    for (int i = 0; i < 5; ++i) {
      std::vector<float> row;
      for (int k = 0; k < 50; ++k)
        row.push_back(static_cast<float>((k * 37 + i * 11 + static_cast<int>(w)) % 29) / 3);
      builder.add(w, position_distance(row, row, i));
    }
  }
  const Comparison c = builder.result();
  EXPECT_EQ(c.kl_mean, 0);
  EXPECT_EQ(c.kl_max, 0);
  EXPECT_EQ(c.kl_stderr, 0);
  EXPECT_EQ(c.top1_agreement, 1);
  EXPECT_EQ(c.dp_rms, 0);
  EXPECT_EQ(c.ppl_base, c.ppl_quant);
  EXPECT_EQ(c.ln_ppl_ratio.value, 0);
  EXPECT_EQ(c.windows, 3);
  EXPECT_EQ(c.tokens, 15);
}

TEST(Compare, ByHand) {
  // base: 1/2, 1/2; quant: 1/4, 3/4. KL = ½ ln 2 + ½ ln ⅔.
  const float base[] = {0, 0}, quant[] = {0, std::log(3.0f)};
  const PositionDistance d = position_distance(base, quant, 1);
  EXPECT_NEAR(d.kl, 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-7);
  EXPECT_NEAR(d.p_base, 0.5, 1e-12);
  EXPECT_NEAR(d.p_quant, 0.75, 1e-7);
  EXPECT_FALSE(d.same_top1);  // of equals the first
}

TEST(Compare, OneWindowFallsBackToPositions) {
  ComparisonBuilder builder;
  const float base[] = {0, 0, 0}, near[] = {0, 0.1f, 0}, far[] = {0, 2, 0};
  builder.add(7, position_distance(base, near, 0));
  builder.add(7, position_distance(base, far, 1));
  const Comparison c = builder.result();
  EXPECT_EQ(c.windows, 1);
  EXPECT_GT(c.kl_stderr, 0);
  EXPECT_EQ(c.kl_stderr, c.kl_stderr_positions);
}

TEST(Compare, WhatIsNotFiniteIsCountedNotHidden) {
  const float base[] = {1, 2}, nan[] = {1, std::nanf("")}, impossible[] = {1, -kInfinity};
  const PositionDistance broken = position_distance(base, nan, 0);
  EXPECT_TRUE(std::isnan(broken.kl));
  EXPECT_FALSE(broken.same_top1);
  const PositionDistance infinite = position_distance(base, impossible, 1);
  EXPECT_TRUE(std::isinf(infinite.kl));
  EXPECT_EQ(infinite.p_quant, 0);
  ComparisonBuilder builder;
  builder.add(0, broken);
  builder.add(1, infinite);
  builder.add(1, position_distance(base, base, 0));
  const Comparison c = builder.result();
  EXPECT_EQ(c.not_finite, 2);
  EXPECT_TRUE(std::isnan(c.kl_mean));
  EXPECT_TRUE(to_json(c)["kl"]["p50"].is_null());
}

TEST(Compare, NothingScoredIsAllUnknown) {
  const Comparison c = ComparisonBuilder().result();
  EXPECT_EQ(c.tokens, 0);
  EXPECT_TRUE(std::isnan(c.kl_mean));
}

}  // namespace
}  // namespace nibble
