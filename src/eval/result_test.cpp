#include "eval/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble {
namespace {

using ::testing::HasSubstr;

TaskResult example() {
  TaskResult r;
  r.task = "boolq";
  r.task_version = 3;
  r.split = "validation";
  r.data_sha256 = "ab12";
  r.rows = 200;
  r.shots = 2;
  r.seed = 18446744073709551615ull;
  r.primary = "accuracy";
  r.higher_is_better = false;
  r.metrics["accuracy"] = {0.61, 0.034, 0.54, 0.67};
  r.metrics["gold_ppl"] = {std::numeric_limits<double>::infinity(), std::nan(""), 1.5, std::nan("")};
  r.checks["label_share_yes"] = 0.62;
  r.checks["not_finite"] = 3;
  r.latency_ms = {1, 2, 3, 4, 5, 0, 0.5, 1.5, 2.5, 4.5, 6};
  r.first_token_ms = {6, 7, 8, 9, 10};
  r.per_token_ms = {11, 12, 13, 14, 15};
  r.prompt_tokens_per_s = 123.5;
  r.output_tokens_per_s = 17.25;
  r.seconds = 9.75;
  return r;
}

TEST(Result, JsonHasTheShapeOfTheCommandLine) {
  const Json json = to_json(example());
  EXPECT_EQ(json["metrics"]["accuracy"], Json::parse(R"({"value":0.61,"stderr":0.034,"ci95":[0.54,0.67]})"));
  EXPECT_EQ(json["latency_ms"],
            Json::parse(R"({"mean":1.0,"p50":2.0,"p90":3.0,"p95":4.0,"p99":5.0,"min":0.0,"whisker_low":0.5,
                  "p25":1.5,"p75":2.5,"whisker_high":4.5,"max":6.0})"));
  EXPECT_TRUE(json["per_token_ms"]["p25"].is_null());  // as older versions measured
  EXPECT_EQ(json["throughput"], Json::parse(R"({"prompt_tokens_per_s":123.5,"output_tokens_per_s":17.25})"));
  EXPECT_EQ(json["checks"]["label_share_yes"], 0.62);
  EXPECT_EQ(json["rows"], 200);
  EXPECT_FALSE(json.contains("samples"));
}

TEST(Result, SurvivesTextAndBack) {
  const TaskResult before = example();
  const TaskResult after = task_result_from_json(parse_json(to_json(before).dump(), "x"), "x");
  EXPECT_EQ(to_json(after), to_json(before));
  EXPECT_EQ(after.seed, before.seed);
  EXPECT_EQ(after.data_sha256, "ab12");
  EXPECT_FALSE(after.higher_is_better);
  EXPECT_EQ(after.per_token_ms.p99, 15);
  EXPECT_EQ(after.seconds, 9.75);
}

TEST(Result, NumbersThatJsonLacksSurvive) {
  const TaskResult after = task_result_from_json(parse_json(to_json(example()).dump(), "x"), "x");
  const Metric& metric = after.metrics.at("gold_ppl");
  EXPECT_TRUE(std::isinf(metric.value));
  EXPECT_TRUE(std::isnan(metric.stderr_));
  EXPECT_EQ(metric.ci_low, 1.5);
  EXPECT_TRUE(std::isnan(metric.ci_high));
}

TEST(Result, SampleSurvivesTextAndBack) {
  Sample before{"17/3", "17", 1, 5, "Yes", "No", "a prompt\n", "an output", Json{{"loglik", -1.5}}};
  const Sample after = sample_from_json(parse_json(to_json(before).dump(), "x"), "x");
  EXPECT_EQ(to_json(after), to_json(before));
  EXPECT_EQ(after.cluster, "17");
  EXPECT_EQ(after.detail["loglik"], -1.5);
}

TEST(Result, SampleWithHalfACharacterIsStillJson) {
  Sample sample;
  sample.output = "caf\xC3";
  EXPECT_EQ(parse_json(to_json(sample).dump(), "x")["output"], "caf\uFFFD");
}

TEST(Result, ValidUtf8) {
  EXPECT_EQ(to_valid_utf8("a\u00e9\u20ac\U0001F600"), "a\u00e9\u20ac\U0001F600");
  EXPECT_EQ(to_valid_utf8("\xC0\x80"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // surrogate
  EXPECT_EQ(to_valid_utf8("\xF4\x90\x80\x80x"), "\uFFFD\uFFFD\uFFFD\uFFFDx");
  EXPECT_EQ(to_valid_utf8("\xE2\x82"), "\uFFFD\uFFFD");  // cut
  EXPECT_EQ(to_valid_utf8("\xE2z"), "\uFFFDz");
}

TEST(Result, MemorySurvives) {
  const MemoryBytes before{1, 2, 3, 4, uint64_t{1} << 60, 6};
  const MemoryBytes after = memory_from_json(to_json(before), "x");
  EXPECT_EQ(to_json(after), to_json(before));
  EXPECT_EQ(after.peak_rss, uint64_t{1} << 60);
}

void expect_error(Json json, const char* part) {
  try {
    task_result_from_json(json, "file.json");
    FAIL() << "no error; expected one with " << part;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("file.json"));
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(Result, WrongJsonNamesTheKey) {
  const Json good = to_json(example());
  expect_error(Json::array(), "task");
  for (const char* key : {"task", "rows", "seed", "metrics", "checks", "throughput", "primary"}) {
    Json bad = good;
    bad.erase(key);
    expect_error(bad, key);
    bad[key] = Json::array({1});
    expect_error(bad, key);
  }
  Json bad = good;
  bad["metrics"]["accuracy"]["ci95"] = Json::array({1});
  expect_error(bad, "ci95");
  bad = good;
  bad["metrics"]["accuracy"] = 3;
  expect_error(bad, "accuracy");
  bad = good;
  bad["metrics"]["accuracy"]["stderr"] = "many";
  expect_error(bad, "stderr");
  bad = good;
  bad["latency_ms"] = 7;
  expect_error(bad, "latency_ms");
}

}  // namespace
}  // namespace nibble
