// The stream that calibrates a layer is the one that reaches it in the quantized model.
#include "quant/block_quantizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/random.h"
#include "model/session.h"
#include "quant/nibble_writer.h"
#include "test_data.h"

namespace nibble {
namespace {

constexpr int kTokens = 96, kSamples = 3;

// Model, method, bits of the scales.
class BlockQuantizerStream : public ::testing::TestWithParam<std::tuple<const char*, const char*, int>> {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / fmt::format("nibble-stream-{}", ::getpid());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_;
  ThreadPool pool_{2};
};

TEST_P(BlockQuantizerStream, IsThatOfTheQuantizedModel) {
  const auto [name, method, scale_bits] = GetParam();
  const auto model = load_model(testing::mini_dir() / "models" / name);
  Calibration calibration;
  Random random(1);
  for (int i = 0; i < kSamples; ++i) {
    auto& sample = calibration.samples.emplace_back();
    for (int t = 0; t < kTokens; ++t) sample.push_back(static_cast<int32_t>(random.uniform() * 500));
    calibration.tokens += kTokens;
  }
  Plan plan;
  plan.base = {method, 4, 64, false, scale_bits};
  BlockQuantizer quantizer(model, calibration, plan, {}, Device::kCpu, pool_);
  const QuantizedTensors tensors = quantizer.run({});
  int scaled = 0;
  int widened = 0;  // what channel scales went into
  for (const LayerReport& report : tensors.reports) {
    scaled += report.scaled;
    widened += report.used.scale_bits != scale_bits;
    EXPECT_EQ(tensors.packed.at(report.name).format.scale_type == ScaleType::kByte,
              report.used.scale_bits == 8);
  }
  EXPECT_EQ(widened > 0, std::string_view(method) == "gsq" && scale_bits == 8);
  EXPECT_EQ(scaled > 0, std::string_view(method) == "gsq");
  write_nibble_directory(*model, tensors, {{"method", method}}, dir_);
  const auto quantized = load_model(dir_);

  const SessionOptions options{.context = kTokens, .batch_tokens = kTokens};
  Session session(quantized, options, pool_);
  const int64_t hidden = model->config.hidden_size;
  std::vector<float> normed(static_cast<size_t>(kTokens * hidden));
  double error = 0, size = 0;
  for (int i = 0; i < kSamples; ++i) {
    Batch batch;
    batch.add(0, 0, calibration.samples[static_cast<size_t>(i)]);
    session.forward(batch);
    session.norm(quantized->final_norm, quantizer.stream() + i * kTokens * hidden, normed.data(), kTokens);
    for (size_t at = 0; at < normed.size(); ++at) {
      const double difference = double{normed[at]} - double{session.hidden()[at]};
      error += difference * difference;
      size += double{normed[at]} * double{normed[at]};
    }
  }
  EXPECT_LT(error, 1e-4 * size);
}

INSTANTIATE_TEST_SUITE_P(, BlockQuantizerStream,
                         ::testing::Combine(::testing::Values("llama-mini", "qwen2-mini", "phi-mini"),
                                            ::testing::Values("gsq", "gptq+ff"), ::testing::Values(16, 8)));

}  // namespace
}  // namespace nibble
