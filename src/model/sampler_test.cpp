#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"

namespace nibble {
namespace {

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler greedy({});
  EXPECT_EQ(greedy.next(std::vector<float>{1, 3, 3, 2}), 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(greedy.next(std::vector<float>{nan, 1, 2}), 2);
  EXPECT_EQ(greedy.next(std::vector<float>{nan, nan}), 1);
}

TEST(Sampler, FrequenciesAreTheProbabilities) {
  Sampler sampler({.temperature = 2, .seed = 7});
  const std::vector<float> logits = {0, static_cast<float>(2 * std::log(3.0)),
                                     -1000};  // ¼, ¾, 0 at temperature 2
  int counts[3] = {};
  for (int i = 0; i < 10000; ++i) ++counts[sampler.next(logits)];
  EXPECT_NEAR(counts[1], 7500, 150);  // 3.5 standard deviations
  EXPECT_EQ(counts[2], 0);
}

TEST(Sampler, TopPKeepsTheLikeliestThatReachIt) {
  Sampler sampler({.temperature = 1, .top_p = 0.7, .seed = 1});
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.3f), std::log(0.1f)};
  int counts[4] = {};
  for (int i = 0; i < 8000; ++i) ++counts[sampler.next(logits)];
  EXPECT_EQ(counts[0] + counts[3], 0);
  EXPECT_NEAR(counts[1], 5000, 160);
}

TEST(Sampler, TheSameSeedGivesTheSameTokens) {
  Sampler a({.temperature = 1, .seed = 5}), b({.temperature = 1, .seed = 5});
  const std::vector<float> logits(50, 0.0f);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next(logits), b.next(logits));
}

TEST(Sampler, RefusesImpossibleOptions) {
  EXPECT_THROW(Sampler({.temperature = -1}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 0}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 1.5}), UsageError);
}

}  // namespace
}  // namespace nibble
