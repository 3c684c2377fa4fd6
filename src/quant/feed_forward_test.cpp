// Weights corrected for what the layers before have lost.
#include "quant/feed_forward.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "quant/statistics.h"

namespace nibble {
namespace {

constexpr int64_t kInputs = 40, kOutputs = 12, kRows = 1500;

float uniform(Random& random) { return static_cast<float>(random.uniform() - 0.5); }

// The unquantized stream r and what became of it: a part of each channel lost to its neighbour, and noise.
struct Streams {
  std::vector<float> r, x, t;
  explicit Streams(uint64_t seed, const std::vector<float>& weight, float leak) {
    Random random(seed);
    for (int64_t token = 0; token < kRows; ++token) {
      std::vector<float> row(kInputs);
      for (float& v : row) v = uniform(random);
      for (size_t i = 0; i < row.size(); ++i) {
        r.push_back(row[i]);
        x.push_back(row[i] + leak * row[(i + 1) % row.size()] + 0.05f * uniform(random));
      }
      for (int64_t n = 0; n < kOutputs; ++n) {
        float sum = 0;
        for (size_t i = 0; i < row.size(); ++i)
          sum += weight[static_cast<size_t>(n) * row.size() + i] * row[i];
        t.push_back(sum);
      }
    }
  }
};

class FeedForward : public ::testing::Test {
 protected:
  FeedForward() {
    Random random(1);
    for (int64_t i = 0; i < kInputs * kOutputs; ++i) weight_.push_back(uniform(random));
  }
  // by_target: the linear's output is given, else its input in the unquantized stream.
  InputStatistics statistics(float leak, bool by_target) {
    const Streams seen(2, weight_, leak), held_out(3, weight_, leak);
    StatisticsCollector collector(kInputs, kRows, pool_, true, kRows, kOutputs);
    const auto rows = [&](const Streams& s) {
      return Observed{s.x.data(), by_target ? nullptr : s.r.data(), by_target ? s.t.data() : nullptr};
    };
    collector.add(rows(seen), kRows);
    collector.hold_out(rows(held_out), kRows);
    return collector.finish();
  }
  // ‖t − W·x‖² / ‖t‖² on text that neither was seen nor held out.
  double loss(const std::vector<float>& weight, float leak) const {
    const Streams fresh(4, weight_, leak);
    double error = 0, size = 0;
    for (int64_t token = 0; token < kRows; ++token) {
      for (int64_t n = 0; n < kOutputs; ++n) {
        double sum = fresh.t[static_cast<size_t>(token * kOutputs + n)];
        size += sum * sum;
        for (int64_t i = 0; i < kInputs; ++i)
          sum -= double{weight[static_cast<size_t>(n * kInputs + i)]} *
                 double{fresh.x[static_cast<size_t>(token * kInputs + i)]};
        error += sum * sum;
      }
    }
    return error / size;
  }
  ThreadPool pool_{2};
  std::vector<float> weight_;
};

TEST_F(FeedForward, TakesBackWhatALinearMapCan) {
  for (const bool by_target : {false, true}) {
    const InputStatistics input = statistics(0.3f, by_target);
    std::vector<float> corrected = weight_;
    EXPECT_GT(feed_forward(corrected, kOutputs, input, 0.001, pool_), 0.9);
    EXPECT_LT(loss(corrected, 0.3f), 0.15 * loss(weight_, 0.3f)) << by_target;
  }
}

TEST_F(FeedForward, TheHeldOutRowsDecideHowMuch) {
  InputStatistics input = statistics(0.3f, false);
  // The held-out text wants the opposite of what the rest does: r − x with the other sign.
  for (size_t i = 0; i < input.held_out.size(); ++i)
    input.held_out_reference[i] = 2 * input.held_out[i] - input.held_out_reference[i];
  std::vector<float> corrected = weight_;
  EXPECT_EQ(feed_forward(corrected, kOutputs, input, 0.001, pool_), 0);
  EXPECT_EQ(corrected, weight_);
}

TEST_F(FeedForward, LeavesWeightsAloneWithoutTheOtherStream) {
  const Streams seen(2, weight_, 0.3f);
  StatisticsCollector collector(kInputs, kRows, pool_);
  collector.add(seen.x.data(), kRows);
  std::vector<float> corrected = weight_;
  EXPECT_EQ(feed_forward(corrected, kOutputs, collector.finish(), 0.01, pool_), 0);
  EXPECT_EQ(corrected, weight_);
}

}  // namespace
}  // namespace nibble
