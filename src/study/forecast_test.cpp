#include "study/forecast.h"

#include <algorithm>

#include <gmock/gmock.h>

#include "base/error.h"
#include "study/runner_fixture.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

class ForecastTest : public testing::RunnerTest {
 protected:
  // Known times and peaks in the place of the measured ones.
  void set(const char* out, const Variant& variant, const std::string& task, double seconds,
           uint64_t peak) const {
    Store store = Store::open(dir_ / out / "results.db");
    for (Cell& cell : store.cells(true)) {
      if (cell.variant != variant || cell.task != task) continue;
      cell.seconds = seconds;
      cell.memory->peak_rss = peak;
      store.save(cell);
      return;
    }
    FAIL() << variant.name() << ' ' << task;
  }
  Forecast forecast(const char* out, const std::vector<std::filesystem::path>& like = {},
                    const Shard& shard = {}) {
    return forecast_study(plan_, dir_ / out, shard, like, {{"tiny", 1000}, {"big", 4000}});
  }
};

const Variant kBaseline{"tiny", "baseline", 16, 0}, kG16{"tiny", "gptq", 4, 16};

TEST_F(ForecastTest, NothingMeasuredNothingKnown) {
  const Forecast f = forecast("out");
  EXPECT_EQ(f.cells, 6u);
  EXPECT_EQ(f.done, 0u);
  EXPECT_EQ(f.steps.size(), 7u);  // one quantization
  EXPECT_FALSE(f.seconds());
  EXPECT_EQ(f.most_memory(), nullptr);
  EXPECT_EQ(f.without_seconds(), 7u);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out"));
}

TEST_F(ForecastTest, DistancesToo) {
  plan_.tasks = {"wikitext"};
  ASSERT_TRUE(run("out").complete());
  plan_.methods = {{"gptq", 4, {16, 64}}};
  const Forecast f = forecast("out");
  const auto kl = std::find_if(f.steps.begin(), f.steps.end(), [](const auto& s) { return s.work == "kl"; });
  ASSERT_NE(kl, f.steps.end());
  EXPECT_EQ(kl->variant.group_size, 64);
  EXPECT_EQ(kl->memory->value, 9);  // of the process with both models
}

TEST_F(ForecastTest, FromTheSameModelThenByParameters) {
  ASSERT_TRUE(run("out").complete());
  for (const char* task : {"boolq", "gsm8k", "bench"}) {
    set("out", kBaseline, task, 10, 500);
    set("out", kG16, task, 4, 200);
  }
  set("out", kG16, "gsm8k", 8, 300);
  EXPECT_TRUE(forecast("out").steps.empty());
  plan_.methods = {{"gptq", 4, {16, 64}}};
  Forecast f = forecast("out");
  EXPECT_EQ(f.done, 6u);
  ASSERT_EQ(f.steps.size(), 4u);
  EXPECT_EQ(f.steps[0].work, "quantize");
  EXPECT_EQ(f.steps[0].seconds->value, 1.5);
  EXPECT_EQ(f.steps[0].memory->value, 1000);
  EXPECT_EQ(f.steps[0].seconds->basis, "as tiny gptq-4bit-g16 quantize");
  EXPECT_EQ(f.seconds(), 1.5 + 4 + 8 + 4);
  EXPECT_EQ(f.most_memory()->work, "quantize");
  EXPECT_FALSE(f.rough());

  plan_.models = {"big"};
  plan_.methods = {{"gptq", 4, {16}}};
  f = forecast("other", {dir_ / "out"});
  EXPECT_EQ(f.seconds(), 4 * (30 + 1.5 + 16));
  EXPECT_EQ(f.most_memory()->memory->value, 4000);
  EXPECT_THAT(f.steps[0].seconds->basis, HasSubstr("by the ratio of the parameters"));
  EXPECT_TRUE(f.rough());
  f = forecast("other", {dir_ / "out"}, {1, 2});
  EXPECT_EQ(f.cells, 3u);
  EXPECT_EQ(f.seconds(), 120);

  plan_.tasks = {"boolq", "wikitext"};  // no such work was ever done
  f = forecast("other", {dir_ / "out"});
  EXPECT_FALSE(f.seconds());
  EXPECT_EQ(f.without_seconds(), 3u);  // and the distance of one
  EXPECT_EQ(f.without_memory(), 3u);
  EXPECT_THROW(forecast("other", {dir_ / "absent"}), Error);
}

}  // namespace
}  // namespace nibble
