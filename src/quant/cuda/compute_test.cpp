// Quantization on a card against the processor's. Skips where no card can be used.
#include "quant/cuda/compute.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <tuple>

#include "base/file.h"
#include "base/random.h"
#include "model/cuda_device.h"
#include "quant/gptq.h"
#include "quant/inverse_hessian.h"
#include "quant/quantize.h"
#include "quant/refine.h"
#include "quant/statistics.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

size_t size(int64_t n) { return static_cast<size_t>(n); }

std::vector<float> uniform(int64_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(size(n));
  for (float& v : out) v = static_cast<float>(random.uniform() + random.uniform() - 1);
  return out;
}

class CudaQuantize : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_problem().empty()) GTEST_SKIP() << cuda_problem();
  }
  // Channels of different size that have something in common; one of them never active.
  InputStatistics activations(int64_t k, int64_t tokens) {
    std::vector<float> x = uniform(k * tokens, 1);
    const std::vector<float> shared = uniform(tokens, 2);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < k; ++i) {
        float& v = x[size(t * k + i)];
        v = i == 5 ? 0 : (v + 0.7f * shared[size(t)]) * (i % 17 == 3 ? 12.0f : 1.0f);
      }
    }
    StatisticsCollector collector(k, tokens, pool_);
    collector.add(x.data(), tokens);
    return collector.finish();
  }
  std::unique_ptr<Compute> open() {
    return open_compute(Device::kCuda, load_model(testing::mini_dir() / "models" / "qwen2-mini"), 64, pool_);
  }
  OrderedJson quantize(const std::string& model, const std::string& method, Device device,
                       bool act_order = false) {
    QuantizeOptions options;
    options.plan.base.method = method;
    options.layer.act_order = act_order;
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 32;
    options.device = device;
    return quantize_model(load_model(testing::mini_dir() / "models" / model), options, dir_, true, pool_, {});
  }
  void TearDown() override { fs::remove_all(dir_); }

  fs::path dir_ = fs::temp_directory_path() / fmt::format("nibble-cuda-quantize-{}", ::getpid());
  ThreadPool pool_{2};
};

TEST_F(CudaQuantize, FactorIsTheProcessors) {
  const auto compute = open();
  for (const int64_t k : {64, 96, 176, 300, 1000}) {
    for (const bool act_order : {false, true}) {
      const InputStatistics input = activations(k, 2 * k);
      const auto expected = inverse_hessian(input, 0.01, act_order, pool_);
      InputStatistics there = input;
      there.card = compute->card();
      there.inverse = nullptr;
      const auto found = inverse_hessian(there, 0.01, act_order, pool_);
      ASSERT_EQ(found->factor.size(), expected->factor.size()) << k;
      EXPECT_EQ(found->damp, expected->damp);
      EXPECT_EQ(found->dead, 1);
      EXPECT_EQ(found->order, expected->order);
      double error = 0, whole = 0;
      for (size_t i = 0; i < found->factor.size(); ++i) {
        error += std::pow(double{found->factor[i]} - double{expected->factor[i]}, 2);
        whole += std::pow(double{expected->factor[i]}, 2);
      }
      EXPECT_LT(error, 1e-12 * whole) << k;
    }
  }
}

TEST_F(CudaQuantize, WhatCannotBeFactoredIsDampedOrGivenUp) {
  const auto compute = open();
  InputStatistics input = activations(64, 20);  // of rank 20
  input.card = compute->card();
  EXPECT_GT(inverse_hessian(input, 0, false, pool_)->damp, 0);
  input.inverse = nullptr;
  input.gram[3 * 64 + 3] = -1e9f;
  EXPECT_TRUE(inverse_hessian(input, 0.01, false, pool_)->factor.empty());
}

TEST_F(CudaQuantize, LoopIsTheProcessors) {
  const auto compute = open();
  const int64_t n = 37, k = 300;
  const InputStatistics input = activations(k, 600);
  const std::vector<float> weight = uniform(n * k, 3);
  for (const bool act_order : {false, true}) {
    const auto inverse = inverse_hessian(input, 0.01, act_order, pool_);
    for (const int bits : {2, 3, 4, 8}) {
      for (const int group : {16, 48, 64, 128, 256, 0}) {
        for (const int form : {0, 1, 2}) {
          const bool symmetric = form == 1;
          PackedFormat format{bits, group, symmetric, n, k};
          if (form == 2) format.scale_type = ScaleType::kByte;
          const QuantizedMatrix expected = gptq_loop(weight, inverse->factor, inverse->order, format, pool_);
          const QuantizedMatrix found =
              compute->card()->loop(weight, inverse->factor, inverse->order, format);
          int64_t different = 0;
          for (size_t i = 0; i < found.codes.size(); ++i) different += found.codes[i] != expected.codes[i];
          int64_t grids = 0;
          for (size_t i = 0; i < found.scales.size(); ++i)
            grids += found.scales[i] != expected.scales[i] || found.zeros[i] != expected.zeros[i];
          // A code at a border may fall to the other side, and takes the rest of its row along.
          const double error = relative_output_error(weight, dequantize(found, pool_), n, input, pool_),
                       reference =
                           relative_output_error(weight, dequantize(expected, pool_), n, input, pool_);
          EXPECT_NEAR(error, reference, 0.02 * reference) << bits << " bits, groups of " << group;
          EXPECT_LT(different, n * k / 20) << bits << " bits, groups of " << group;
          EXPECT_LT(grids, std::max<int64_t>(2, static_cast<int64_t>(found.scales.size()) / 10));
        }
      }
    }
  }
}

TEST_F(CudaQuantize, CoordinateDescentIsTheProcessors) {
  const auto compute = open();
  const int64_t n = 37;
  for (const int64_t k : {40, 300}) {
    InputStatistics input = activations(k, 2 * k);
    input.card = compute->card();
    const std::vector<float> weight = uniform(n * k, 3);
    const auto inverse = inverse_hessian(input, 0.01, false, pool_);
    for (const int bits : {2, 3, 4, 8}) {
      for (const int group : {16, 64, 0}) {
        for (const bool symmetric : {false, true}) {
          const PackedFormat format{bits, group, symmetric, n, k};
          const QuantizedMatrix before = gptq_loop(weight, inverse->factor, inverse->order, format, pool_);
          QuantizedMatrix expected = before, found = before;
          refine_codes(weight, input, 0.01, 5, expected, pool_);
          compute->card()->refine(weight, input, 0.01, 5, found);
          EXPECT_EQ(found.scales, before.scales);
          EXPECT_EQ(found.zeros, before.zeros);
          int64_t different = 0, moved = 0;
          for (size_t i = 0; i < found.codes.size(); ++i) {
            different += found.codes[i] != expected.codes[i];
            moved += found.codes[i] != before.codes[i];
          }
          const auto error = [&](const QuantizedMatrix& m) {
            return relative_output_error(weight, dequantize(m, pool_), n, input, pool_);
          };
          EXPECT_NEAR(error(found), error(expected), 0.005 * error(expected)) << bits << " " << group;
          EXPECT_LE(error(found), error(before) * 1.001) << bits << " " << group;
          EXPECT_LT(different, n * k / 50) << bits << " bits, groups of " << group;
          EXPECT_GT(moved, 0) << bits << " bits, groups of " << group;
        }
      }
    }
  }
}

TEST_F(CudaQuantize, ReportIsTheProcessors) {
  for (const auto& [model, method, act_order] : {std::tuple{"llama-mini", "gptq", false},
                                                 {"qwen2-mini", "gptq", true},
                                                 {"qwen2-mini", "gptq+ff", false},
                                                 {"phi-mini", "gptq+ff", false},
                                                 {"phi-mini", "gsq+gptq", false},
                                                 {"llama-mini", "gsq", false},
                                                 {"phi-mini", "rtn", false}}) {
    const OrderedJson expected = quantize(model, method, Device::kCpu, act_order);
    const OrderedJson found = quantize(model, method, Device::kCuda, act_order);
    const std::string weights = read_file(dir_ / "model.safetensors");
    ASSERT_EQ(found["linears"].size(), expected["linears"].size());
    EXPECT_EQ(found["device"], device_name(Device::kCuda));
    double errors = 0, reference = 0;
    for (size_t i = 0; i < found["linears"].size(); ++i) {
      const OrderedJson &a = found["linears"][i], &b = expected["linears"][i];
      for (const char* key :
           {"name", "shape", "method", "bits", "group_size", "act_order", "damp", "fallback"})
        EXPECT_EQ(a[key], b[key]) << model << " " << method << " " << b["name"] << " " << key;
      if (b["error"].is_null()) continue;
      errors += a["error"].get<double>();
      reference += b["error"].get<double>();
      EXPECT_NEAR(a["error"].get<double>(), b["error"].get<double>(), 0.2 * b["error"].get<double>())
          << model << " " << method << " " << b["name"];
    }
    EXPECT_NEAR(errors, reference, 0.02 * reference) << model << " " << method;
    quantize(model, method, Device::kCuda, act_order);
    EXPECT_EQ(read_file(dir_ / "model.safetensors"), weights)
        << model << " " << method << ": not the same again";
  }
}

// Phi's o and down are one weight on the card where groups allow it.
TEST_F(CudaQuantize, APackedParallelBlockRunsAsOnTheProcessor) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(3 + i * 37 % 500);
  for (const auto& [bits, group, scale_bits] :
       {std::tuple{4, 64, 16}, {3, 32, 16}, {8, 16, 16}, {4, 128, 16}, {4, 0, 16}, {4, 64, 8}, {6, 32, 8}}) {
    QuantizeOptions options;
    options.plan.base.method = "rtn";
    options.plan.base.bits = bits;
    options.plan.base.group_size = group;
    options.plan.base.scale_bits = scale_bits;
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 1;
    quantize_model(load_model(testing::mini_dir() / "models" / "phi-mini"), options, dir_, true, pool_, {});
    const std::shared_ptr<const Model> model = load_model(dir_);
    std::vector<std::vector<float>> logits;
    for (const Device device : {Device::kCpu, Device::kCuda}) {
      Precision precision = Precision::exact();
      precision.device = device;
      const auto pass =
          open_forward_pass(model, {.context = 64, .batch_tokens = 40, .precision = precision}, pool_);
      Batch batch;
      batch.add(0, 0, std::span(tokens).first(39));
      pass->forward(batch);
      batch.clear();
      batch.add(0, 39, std::span(tokens).last(1));
      pass->forward(batch);
      pass->row_logits(0, 1, logits.emplace_back(size(model->config.vocab_size)).data());
    }
    double worst = 0;
    for (size_t i = 0; i < logits[0].size(); ++i)
      worst = std::max(worst, std::fabs(double{logits[0][i]} - double{logits[1][i]}));
    EXPECT_LE(worst, 2e-3) << bits << " bits, groups of " << group << ", scales of " << scale_bits;
  }
}

}  // namespace
}  // namespace nibble
