#include "eval/paired.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

const Json& golden() {
  static const Json json = read_json_file(testing::source_dir() / "tests" / "golden" / "statistics.json");
  return json;
}

std::vector<double> numbers(const Json& json) { return json.get<std::vector<double>>(); }
std::vector<std::string> strings(const Json& json) { return json.get<std::vector<std::string>>(); }

TEST(Statistics, StudentT) {
  for (const Json& g : golden()["student_t_975"]) {
    EXPECT_NEAR(student_t_975(g["df"]), g["t"].get<double>(), 2e-3) << g;
  }
  EXPECT_TRUE(std::isinf(student_t_975(0)));
}

TEST(Statistics, Wilson) {
  for (const Json& g : golden()["wilson"]) {
    const Interval interval = wilson_interval(g["k"], g["n"]);
    EXPECT_NEAR(interval.low, g["low"].get<double>(), 1e-12) << g;
    EXPECT_NEAR(interval.high, g["high"].get<double>(), 1e-12) << g;
  }
}

TEST(Statistics, McNemar) {
  for (const Json& g : golden()["mcnemar"]) {
    const double p = g["p"];
    EXPECT_NEAR(mcnemar_exact(g["b"], g["c"]) / p, 1, 1e-9) << g;
    EXPECT_DOUBLE_EQ(mcnemar_exact(g["c"], g["b"]), mcnemar_exact(g["b"], g["c"]));
  }
}

TEST(Statistics, SignFlipOfClusters) {
  for (const Json& g : golden()["sign_flip"]) {
    const auto differences = g["differences"].get<std::vector<int64_t>>();
    EXPECT_NEAR(sign_flip_exact(differences), g["p"].get<double>(), 1e-12) << g;
  }
  EXPECT_EQ(sign_flip_exact({}), 1);
  // Clusters of one row: McNemar's test.
  for (const auto& [lost, won] :
       std::vector<std::pair<size_t, size_t>>{{0, 5}, {10, 2}, {40, 61}, {500, 580}}) {
    std::vector<int64_t> single(lost, -1);
    single.insert(single.end(), won, 1);
    single.insert(single.end(), 7, 0);
    EXPECT_NEAR(
        sign_flip_exact(single) / mcnemar_exact(static_cast<int64_t>(lost), static_cast<int64_t>(won)), 1,
        1e-9);
  }
}

TEST(Statistics, StudentTestP) {
  for (const Json& g : golden()["student_t_p"]) {
    EXPECT_NEAR(student_t_p(g["t"], g["df"]), g["p"].get<double>(), 2e-14) << g;
    EXPECT_EQ(student_t_p(-g["t"].get<double>(), g["df"]), student_t_p(g["t"], g["df"]));
  }
  EXPECT_TRUE(std::isnan(student_t_p(1, 0)));
  EXPECT_EQ(t_test({0.5, kUnknown}, 1), 1);
}

TEST(Statistics, Holm) {
  for (const Json& g : golden()["holm"]) {
    const std::vector<double> adjusted = holm(numbers(g["p"]));
    ASSERT_EQ(adjusted.size(), g["adjusted"].size());
    for (size_t i = 0; i < adjusted.size(); ++i)
      EXPECT_NEAR(adjusted[i], g["adjusted"][i].get<double>(), 1e-14) << g;
  }
  EXPECT_TRUE(holm({}).empty());
}

TEST(Statistics, MeanWithError) {
  const Json& g = golden()["mean"];
  const Estimate estimate = mean_with_error(numbers(g["values"]));
  EXPECT_NEAR(estimate.value, g["value"].get<double>(), 1e-12);
  EXPECT_NEAR(estimate.stderr_, g["stderr"].get<double>(), 1e-12);
  const double one[] = {4.0};
  EXPECT_EQ(mean_with_error(one).value, 4.0);
  EXPECT_TRUE(std::isnan(mean_with_error(one).stderr_));
  EXPECT_TRUE(std::isnan(mean_with_error({}).value));
}

TEST(Statistics, Percentiles) {
  for (const Json& g : golden()["percentiles"]) {
    std::vector<double> values = numbers(g["values"]);
    const Percentiles p = percentile_summary(values);
    EXPECT_NEAR(p.mean, g["mean"].get<double>(), 1e-12);
    EXPECT_NEAR(p.p50, g["p50"].get<double>(), 1e-12);
    EXPECT_NEAR(p.p90, g["p90"].get<double>(), 1e-12);
    EXPECT_NEAR(p.p95, g["p95"].get<double>(), 1e-12);
    EXPECT_NEAR(p.p99, g["p99"].get<double>(), 1e-12);
    EXPECT_EQ(p.min, g["min"].get<double>());
    EXPECT_EQ(p.whisker_low, g["whisker_low"].get<double>());
    EXPECT_NEAR(p.p25, g["p25"].get<double>(), 1e-12);
    EXPECT_NEAR(p.p75, g["p75"].get<double>(), 1e-12);
    EXPECT_EQ(p.whisker_high, g["whisker_high"].get<double>());
    EXPECT_EQ(p.max, g["max"].get<double>());
    std::sort(values.begin(), values.end());
    EXPECT_NEAR(percentile(values, 99.9), g["p99.9"].get<double>(), 1e-12);
    EXPECT_EQ(percentile(values, 100), values.back());
    EXPECT_EQ(percentile(values, 0), values.front());
  }
  EXPECT_EQ(percentile_summary({}).p99, 0);
  EXPECT_TRUE(std::isnan(percentile_summary({}).p25));
}

TEST(Statistics, ClusteredMean) {
  for (const Json& g : golden()["clustered"]) {
    const Estimate estimate = clustered_mean(numbers(g["values"]), strings(g["clusters"]));
    EXPECT_NEAR(estimate.value, g["value"].get<double>(), 1e-12);
    EXPECT_NEAR(estimate.stderr_, g["stderr"].get<double>(), 1e-12);
  }
}

TEST(Statistics, LogPplRatio) {
  const Json& g = golden()["ppl"];
  const auto base = numbers(g["nll_base"]), quant = numbers(g["nll_quant"]), tokens = numbers(g["tokens"]);
  const auto clusters = strings(g["clusters"]);
  const Metric ppl = perplexity_metric(base, tokens);
  EXPECT_NEAR(ppl.value, g["ppl_base"].get<double>(), 1e-9);
  EXPECT_NEAR(ppl.stderr_, g["ppl_base"].get<double>() * g["ln_ppl_base"]["stderr"].get<double>(), 1e-9);
  EXPECT_LT(ppl.ci_low, ppl.value);
  EXPECT_GT(ppl.ci_high, ppl.value);

  const LogPplRatio ratio = log_ppl_ratio(base, quant, tokens);
  EXPECT_EQ(ratio.windows, 24);
  EXPECT_NEAR(ratio.ppl_quant, g["ppl_quant"].get<double>(), 1e-9);
  EXPECT_NEAR(ratio.value, g["ln_ratio"]["value"].get<double>(), 1e-12);
  EXPECT_NEAR(ratio.value, std::log(ratio.ppl_quant / ratio.ppl_base), 1e-12);
  EXPECT_NEAR(ratio.stderr_, g["ln_ratio"]["stderr"].get<double>(), 1e-12);
  EXPECT_TRUE(ratio.measurable());
  const LogPplRatio clustered = log_ppl_ratio(base, quant, tokens, clusters);
  EXPECT_NEAR(clustered.stderr_, g["ln_ratio_clustered"]["stderr"].get<double>(), 1e-12);
  EXPECT_FALSE(log_ppl_ratio(base, base, tokens).measurable());
  EXPECT_EQ(log_ppl_ratio(base, base, tokens).value, 0);
  EXPECT_EQ(log_ppl_ratio(base, base, tokens).p_value, 1);
  const auto noise = numbers(g["noise"]);
  std::vector<double> near(base.size());
  for (size_t i = 0; i < base.size(); ++i) near[i] = base[i] + noise[i];
  EXPECT_NEAR(log_ppl_ratio(base, near, tokens).p_value, g["p_noise"].get<double>(), 1e-10);
}

TEST(Statistics, PairedComparison) {
  const Json& g = golden()["paired"];
  const auto base = numbers(g["base"]), quant = numbers(g["quant"]);
  const PairedComparison c = compare_paired(base, quant, {}, g["seed"]);
  EXPECT_EQ(c.n, 300);
  EXPECT_EQ(c.clusters, 300);
  EXPECT_NEAR(c.diff, g["diff"].get<double>(), 1e-12);
  EXPECT_NEAR(c.quant - c.base, c.diff, 1e-12);
  EXPECT_NEAR(c.stderr_, g["stderr"].get<double>(), 1e-12);
  EXPECT_EQ(c.right_to_wrong, g["right_to_wrong"].get<int64_t>());
  EXPECT_EQ(c.wrong_to_right, g["wrong_to_right"].get<int64_t>());
  EXPECT_NEAR(c.p_value, g["p_value"].get<double>(), 1e-10);
  EXPECT_NEAR(c.smallest_detectable, g["smallest_detectable"].get<double>(), 1e-12);
  EXPECT_NEAR(c.ci_low, g["bootstrap_seeded"][0].get<double>(), 1e-12);
  EXPECT_NEAR(c.ci_high, g["bootstrap_seeded"][1].get<double>(), 1e-12);
  // SciPy's own generator: the same up to the noise of resampling (steps of 1/300).
  EXPECT_NEAR(c.ci_low, g["bootstrap_scipy_200000"][0].get<double>(), 1.01 / 300);
  EXPECT_NEAR(c.ci_high, g["bootstrap_scipy_200000"][1].get<double>(), 1.01 / 300);

  const PairedComparison k = compare_paired(base, quant, strings(g["clusters"]), g["seed"]);
  EXPECT_EQ(k.clusters, 150);
  EXPECT_NEAR(k.stderr_, g["stderr_clustered"].get<double>(), 1e-12);
  EXPECT_NEAR(k.p_value, g["p_clustered"].get<double>(), 1e-12);
  EXPECT_NEAR(k.ci_low, g["bootstrap_seeded_clustered"][0].get<double>(), 1e-12);
  EXPECT_NEAR(k.ci_high, g["bootstrap_seeded_clustered"][1].get<double>(), 1e-12);
}

TEST(Statistics, BootstrapOfUnequalClusters) {
  const Json& g = golden()["bootstrap_unequal"];
  const Interval ci =
      bootstrap_mean(numbers(g["differences"]), strings(g["clusters"]), g["seed"], g["resamples"]);
  EXPECT_NEAR(ci.low, g["ci"][0].get<double>(), 1e-12);
  EXPECT_NEAR(ci.high, g["ci"][1].get<double>(), 1e-12);
  EXPECT_TRUE(std::isnan(bootstrap_mean({}, {}, 1).low));
}

TEST(Statistics, EqualAnswersShowNoDifferenceButNotInfinitePower) {
  const std::vector<double> same(50, 1.0);
  const PairedComparison c = compare_paired(same, same, {}, 1);
  EXPECT_EQ(c.diff, 0);
  EXPECT_FALSE(c.measurable());
  EXPECT_EQ(c.p_value, 1);
  EXPECT_NEAR(c.smallest_detectable, 2.8015852 / 50, 1e-6);
}

TEST(Statistics, ScoresThatAreNotBinaryHaveATTest) {
  const double base[] = {0.5, 1, 2, 3}, quant[] = {0.25, 1, 2, 2.5};
  const PairedComparison c = compare_paired(base, quant, {}, 1);
  EXPECT_NEAR(c.p_value, 0.215, 0.001);  // differences −0.25, 0, 0, −0.5: t = −1.567, 3 degrees of freedom
  EXPECT_EQ(c.right_to_wrong, 0);
  EXPECT_NEAR(c.diff, -0.1875, 1e-15);
}

TEST(Statistics, ProportionMetric) {
  std::vector<double> scores(100, 0.0);
  std::fill(scores.begin(), scores.begin() + 61, 1.0);
  const Metric plain = proportion_metric(scores, {});
  EXPECT_NEAR(plain.value, 0.61, 1e-15);
  EXPECT_NEAR(plain.stderr_, std::sqrt(.61 * .39 / 99), 1e-12);
  // n − 1 in the error leaves 99 effective rows.
  EXPECT_NEAR(plain.ci_low, wilson_interval(.61 * 99, 99).low, 1e-12);
  // Fifty clusters of two equal answers carry half the information.
  std::vector<std::string> clusters;
  for (int i = 0; i < 100; ++i) clusters.push_back(std::to_string(i / 2));
  scores[61] = 1;
  const Metric clustered = proportion_metric(scores, clusters);
  EXPECT_NEAR(clustered.stderr_, std::sqrt(.62 * .38 / 49), 1e-12);
  EXPECT_NEAR(clustered.ci_low, wilson_interval(.62 * 49, 49).low, 1e-9);
  // A constant answer on balanced pairs has no error at all, but the interval stays honest.
  for (size_t i = 0; i < 100; ++i) scores[i] = static_cast<double>(i % 2);
  const Metric constant = proportion_metric(scores, clusters);
  EXPECT_EQ(constant.stderr_, 0);
  EXPECT_NEAR(constant.ci_low, wilson_interval(50, 100).low, 1e-12);
  std::fill(scores.begin(), scores.end(), 1.0);
  EXPECT_NEAR(proportion_metric(scores, clusters).ci_low, wilson_interval(50, 50).low, 1e-12);
}

Sample sample(const char* key, double score, double tokens = 10) {
  Sample s;
  s.key = s.cluster = key;
  s.score = score;
  s.tokens = tokens;
  return s;
}

TEST(Statistics, SamplesPairByKeyNotByOrder) {
  const std::vector<Sample> base = {sample("a", 1), sample("b", 0), sample("c", 1)};
  const std::vector<Sample> quant = {sample("c", 0), sample("a", 1), sample("b", 1)};
  const PairedComparison c = compare_samples(base, quant, 1);
  EXPECT_EQ(c.right_to_wrong, 1);
  EXPECT_EQ(c.wrong_to_right, 1);
  EXPECT_EQ(c.diff, 0);
}

void expect_error(const std::vector<Sample>& base, const std::vector<Sample>& quant, const char* part) {
  try {
    log_ppl_ratio(base, quant);
    FAIL() << "no error; expected one with " << part;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(Statistics, SamplesThatDoNotPairAreRefused) {
  const std::vector<Sample> base = {sample("a", 1), sample("b", 0)};
  expect_error(base, {sample("a", 1)}, "2 rows");
  expect_error(base, {sample("a", 1), sample("x", 1)}, "'b'");
  expect_error(base, {sample("a", 1), sample("a", 1)}, "twice");
  expect_error({sample("a", 1), sample("a", 1)}, base, "'a'");
  expect_error(base, {sample("a", 1, 11), sample("b", 1)}, "tokenizer");
  EXPECT_THROW(compare_samples(base, {}, 1), Error);
}

TEST(Statistics, LogPplRatioOfSamples) {
  const std::vector<Sample> base = {sample("0", 20), sample("1", 24), sample("2", 30)};
  const std::vector<Sample> quant = {sample("2", 31), sample("1", 26), sample("0", 22.5)};
  const LogPplRatio ratio = log_ppl_ratio(base, quant);
  EXPECT_NEAR(ratio.value, 5.5 / 30, 1e-12);
  EXPECT_NEAR(ratio.ppl_base, std::exp(74.0 / 30), 1e-12);
  EXPECT_NEAR(ratio.stderr_,
              std::sqrt(((2.5 - 5.5 / 3) * (2.5 - 5.5 / 3) + (2 - 5.5 / 3) * (2 - 5.5 / 3) +
                         (1 - 5.5 / 3) * (1 - 5.5 / 3)) *
                        1.5) /
                  30,
              1e-12);
}

}  // namespace
}  // namespace nibble
