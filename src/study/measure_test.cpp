#include "study/measure.h"

#include <gtest/gtest.h>

#include "study/ceilings.h"
#include "test_data.h"

namespace nibble {
namespace {

TEST(Bench, MeasuresPromptsAndGeneration) {
  ThreadPool pool(1);
  const auto model = load_model(testing::mini_dir() / "models/qwen2-mini");
  size_t calls = 0;
  const BenchReport report =
      run_bench(model, {.prompt = 40, .generate = 6, .batches = {2}, .repetitions = 3, .batch_tokens = 16},
                pool, [&](size_t done, size_t total) {
                  EXPECT_EQ(done, ++calls);
                  EXPECT_EQ(total, 6u);
                });
  ASSERT_EQ(report.tests.size(), 2u);
  EXPECT_EQ(report.tests[0].test, "pp40");
  EXPECT_EQ(report.tests[1].test, "tg6");
  const ModelConfig& c = model->config;
  const uint64_t a_token = 2 * 2 * static_cast<uint64_t>(c.n_layers) * static_cast<uint64_t>(c.kv_size());
  for (const BenchTest& test : report.tests) {
    const double per_second = 1000 / test.latency_ms.mean;
    const bool prompts = test.test == "pp40";
    const double tokens = prompts ? 40 : 2;  // of a prompt; of a step
    EXPECT_GT(test.tokens_per_s, 0.3 * tokens * per_second);
    EXPECT_EQ(test.memory.kv_cache, a_token * 2 * (prompts ? 40 : 6));
    EXPECT_EQ(test.memory.weights, model->weight_bytes());
    EXPECT_GT(test.memory.peak_rss, test.memory.kv_cache);
    EXPECT_FALSE(test.bandwidth_fraction.has_value());  // the weights fit in the cache
    EXPECT_EQ(test.peak_fraction.has_value(), prompts);
    if (prompts) {
      EXPECT_GT(*test.peak_fraction, 0);
      EXPECT_LT(*test.peak_fraction, 1.05);
    }
  }
  const OrderedJson json = to_json(report, *model, "1");
  EXPECT_TRUE(json[1].at("bandwidth_fraction").is_null());
}

TEST(Bench, RefusesImpossibleOptions) {
  ThreadPool pool(1);
  const auto model = load_model(testing::mini_dir() / "models/qwen2-mini");
  for (const BenchOptions& options :
       {BenchOptions{.prompt = 0, .generate = 0}, BenchOptions{.batches = {0}}, BenchOptions{.batches = {}},
        BenchOptions{.repetitions = 0}, BenchOptions{.prompt = 5000}})
    EXPECT_THROW(run_bench(model, options, pool, {}), UsageError);
}

TEST(Ceilings, AreThoseOfAMachine) {
  ThreadPool pool(1);
  const Ceilings ceilings = measure_ceilings(pool);
  for (const double operations : {ceilings.int8_ops_per_s, ceilings.dense_ops_per_s}) {
    EXPECT_GT(operations, 1e8);
    EXPECT_LT(operations, 1e14);
  }
  if (!ceilings.read_bytes_per_s) GTEST_SKIP() << "too little free memory";
  EXPECT_GT(*ceilings.read_bytes_per_s, 5e8);
  EXPECT_LT(*ceilings.read_bytes_per_s, 2e12);
}

}  // namespace
}  // namespace nibble
