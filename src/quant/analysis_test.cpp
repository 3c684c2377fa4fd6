// Sensitivities of a mini model, and the plans that are solved from them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <set>

#include "base/file.h"
#include "quant/size_plan.h"
#include "test_data.h"

namespace nibble {
namespace {

// Σ p·ln(p/q) as the program's comparison takes it.
double divergence(std::span<const float> base, std::span<const float> changed) {
  const auto log_sum = [](std::span<const float> row) {
    double largest = row[0], sum = 0;
    for (const float v : row) largest = std::max(largest, double{v});
    for (const float v : row) sum += std::exp(double{v} - largest);
    return largest + std::log(sum);
  };
  const double a = log_sum(base), b = log_sum(changed);
  double total = 0;
  for (size_t i = 0; i < base.size(); ++i)
    total += std::exp(double{base[i]} - a) * (double{base[i]} - a - double{changed[i]} + b);
  return total;
}

Analysis analysis(const std::shared_ptr<const Model>& model) {
  ThreadPool pool(2);
  const Calibration text = load_calibration(
      {.files = bundled_calibration(testing::mini_dir() / "data"), .samples = 4, .seqlen = 256},
      model->load_tokenizer());
  AnalysisOptions options;
  options.bits = {2, 4, 8};
  options.group_sizes = {16, 64, 128};
  options.kl_tokens = 256;
  return analyze_model(model, text, options, divergence, pool, {});
}

int64_t bytes_at(const Analysis& a, double bits) {
  int64_t weights = 0;
  for (const LinearAnalysis& l : a.linears) weights += l.n * l.k;
  return static_cast<int64_t>(static_cast<double>(weights) * bits / 8);
}

void every_linear_loses_more_with_fewer_bits(const Analysis& a, const Model& model) {
  ASSERT_EQ(a.linears.size(), model.linears().size());
  ASSERT_EQ(a.layers.size(), static_cast<size_t>(model.config.n_layers));
  EXPECT_EQ(a.kl_positions, 128);
  int finer_is_better = 0;
  for (const LinearAnalysis& l : a.linears) {
    for (const int group : {16, 64, 128}) {
      EXPECT_LT(a.error(l, 8, group), 0.1 * a.error(l, 4, group)) << l.name;
      EXPECT_LT(a.error(l, 4, group), a.error(l, 2, group)) << l.name;
    }
    finer_is_better += a.error(l, 4, 16) < a.error(l, 4, 128);
    EXPECT_GT(l.kl, 0) << l.name;
    EXPECT_LT(l.kl, 0.1) << l.name;
  }
  EXPECT_EQ(finer_is_better, static_cast<int>(a.linears.size()));
  // A single layer's KL on so few positions may fall either way; that of all of them may not.
  double fine = 0, coarse = 0;
  for (const LayerAnalysis& l : a.layers) {
    ASSERT_EQ(l.kl.size(), 3u);
    fine += l.kl[0];
    coarse += l.kl[2];
  }
  EXPECT_LT(fine, coarse);
}

void a_file_says_the_same(const Analysis& a) {
  const Analysis back = analysis_from_json(parse_json(to_json(a).dump(), "test"), "test");
  ASSERT_EQ(back.linears.size(), a.linears.size());
  for (size_t i = 0; i < a.linears.size(); ++i) {
    EXPECT_EQ(back.linears[i].name, a.linears[i].name);
    EXPECT_EQ(back.linears[i].errors, a.linears[i].errors);
    EXPECT_EQ(back.linears[i].gptq_errors, a.linears[i].gptq_errors);
    EXPECT_EQ(back.linears[i].kl, a.linears[i].kl);
  }
  const int64_t bytes = bytes_at(a, 4.25);
  EXPECT_EQ(solve_plan(back, bytes, "rtn").loss, solve_plan(a, bytes, "rtn").loss);
  Json broken = Json(to_json(a));
  broken["linears"][0]["shape"] = {3};
  EXPECT_THROW(analysis_from_json(broken, "test"), Error);
}

void a_plan_loses_no_more_than_a_uniform_one_of_its_size(const Analysis& a) {
  double last = INFINITY;
  for (const int bits : {2, 4, 8}) {
    if (bits == 4) last = INFINITY;  // from here on without 2 bits
    for (const int group : {128, 64, 16}) {
      int64_t bytes = 0;
      double loss = 0;
      for (const LinearAnalysis& l : a.linears) {
        for (const Choice& c : choices_of(a, l, "rtn")) {
          if (c.plan.bits != bits || c.plan.group_size != group) continue;
          bytes += c.bytes;
          loss += c.loss;
        }
      }
      const SizePlan plan = solve_plan(a, bytes, "rtn");
      EXPECT_LE(plan.bytes, bytes);
      EXPECT_LE(plan.loss, loss * 1.0001) << bits << " bits g" << group;
      EXPECT_LE(plan.loss, last);
      last = plan.loss;
    }
  }
  EXPECT_THROW(solve_plan(a, 1000, "rtn"), Error);
}

void rules_and_their_file_give_the_plan_back(const Analysis& a) {
  const SizePlan solved = solve_plan(a, bytes_at(a, 3.5), "rtn");
  EXPECT_LE(solved.bits_per_weight(), 3.5);
  const auto file = std::filesystem::temp_directory_path() / fmt::format("nibble-plan-{}.toml", ::getpid());
  write_file_atomically(file, to_toml(solved));
  Plan direct, read;
  direct.rules = rules_of(solved);
  read.rules = read_plan_rules(file);
  std::filesystem::remove(file);
  std::set<int> bits;
  for (const PlannedLinear& l : solved.linears) {
    bits.insert(l.choice.plan.bits);
    for (const Plan* plan : {&direct, &read}) {
      EXPECT_EQ(plan->layer(l.name).bits, l.choice.plan.bits) << l.name;
      EXPECT_EQ(plan->layer(l.name).group_size, l.choice.plan.group_size) << l.name;
      EXPECT_EQ(plan->layer(l.name).method, "rtn");
      EXPECT_EQ(plan->layer(l.name).scale_bits, l.choice.plan.scale_bits);
    }
  }
  EXPECT_GT(bits.size(), 1u);
}

// Below 4 bits nothing is chosen while the target can be met with more; scales of bytes leave more for it.
void fewer_than_four_bits_are_a_last_resort(const Analysis& a) {
  const auto fewest = [](const SizePlan& plan) {
    int bits = 16;
    for (const PlannedLinear& l : plan.linears) bits = std::min(bits, l.choice.plan.bits);
    return bits;
  };
  EXPECT_EQ(fewest(solve_plan(a, bytes_at(a, 4.3), "rtn")), 4);
  EXPECT_EQ(fewest(solve_plan(a, bytes_at(a, 4.0), "rtn")), 2);
  Analysis bytes = a;
  bytes.options.scale_bits = 8;
  const SizePlan plan = solve_plan(bytes, bytes_at(a, 4.3), "rtn");
  EXPECT_LT(plan.loss, solve_plan(a, bytes_at(a, 4.3), "rtn").loss);
  for (const PlannedLinear& l : plan.linears) EXPECT_EQ(l.choice.plan.scale_bits, 8);
  EXPECT_EQ(analysis_from_json(parse_json(to_json(bytes).dump(), "test"), "test").options.scale_bits, 8);
}

void gptq_loses_less_and_its_plans_know_it(const Analysis& a) {
  double by_gptq = 0, by_rounding = 0;
  for (const LinearAnalysis& l : a.linears) {
    for (const int group : {16, 64, 128}) {
      by_gptq += std::log(a.error(l, 4, group, true));
      by_rounding += std::log(a.error(l, 4, group));
      EXPECT_EQ(a.error(l, 8, group, true), a.error(l, 8, group)) << l.name;
    }
    const auto rounded = choices_of(a, l, "rtn"), quantized = choices_of(a, l, "gptq+ff");
    const auto clipped = choices_of(a, l, "gsq");
    for (size_t c = 0; c < rounded.size(); ++c) {
      EXPECT_EQ(clipped[c].loss, rounded[c].loss);
      if (rounded[c].plan.bits >= 8) continue;
      const double ratio = a.error(l, rounded[c].plan.bits, rounded[c].plan.group_size, true) /
                           a.error(l, rounded[c].plan.bits, rounded[c].plan.group_size);
      EXPECT_NEAR(quantized[c].loss, ratio * rounded[c].loss, 1e-9 * rounded[c].loss) << l.name;
    }
  }
  EXPECT_LT(by_gptq, by_rounding);
  Json old = Json(to_json(a));  // as files of earlier versions are
  for (Json& linear : old["linears"]) linear.erase("gptq_errors");
  const Analysis without = analysis_from_json(old, "test");
  EXPECT_EQ(choices_of(without, without.linears[0], "gptq")[0].loss,
            choices_of(a, a.linears[0], "rtn")[0].loss);
}

class AnalysisOf : public ::testing::TestWithParam<const char*> {};

// One test: to analyse the model is most of the time.
TEST_P(AnalysisOf, SensitivitiesFilesPlansAndRules) {
  const auto model = load_model(testing::mini_dir() / "models" / GetParam());
  const Analysis a = analysis(model);
  every_linear_loses_more_with_fewer_bits(a, *model);
  a_file_says_the_same(a);
  a_plan_loses_no_more_than_a_uniform_one_of_its_size(a);
  rules_and_their_file_give_the_plan_back(a);
  fewer_than_four_bits_are_a_last_resort(a);
  gptq_loses_less_and_its_plans_know_it(a);
}

INSTANTIATE_TEST_SUITE_P(Mini, AnalysisOf, ::testing::Values("llama-mini", "phi-mini"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           return name.substr(0, name.find('-'));
                         });

}  // namespace
}  // namespace nibble
