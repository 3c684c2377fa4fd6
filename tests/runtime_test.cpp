// What 4-bit weights cost at run time on the real models: memory by phase, and int8 activations against
// float32.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <ostream>

#include "base/file.h"
#include "base/json.h"
#include "eval/compare_run.h"
#include "kernels/ops.h"
#include "quant/quantize.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

struct RealModel {
  std::string title;
  const char* file;
};
void PrintTo(const RealModel& model, std::ostream* out) { *out << model.title; }

class Runtime : public ::testing::TestWithParam<RealModel> {
 protected:
  void SetUp() override {
    file_ = testing::fetched_models_dir() / GetParam().file;
    text_ = testing::shared_dir() / "data" / "wikitext2" / "wiki.test.raw";
    NIBBLE_NEEDS(file_);
    NIBBLE_NEEDS(text_);
    dir_ = fs::temp_directory_path() / fmt::format("nibble-runtime-{}-{}", GetParam().title, ::getpid());
    fs::create_directories(dir_);
    const auto base = load_model(file_);
    // Rounding needs no data; one sample is for the errors in the report.
    QuantizeOptions options;
    options.plan.base.method = "rtn";
    options.plan.base.group_size = 64;
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 1;
    quantize_model(base, options, quantized(), true, pool_, {});
  }
  void TearDown() override {
    if (!dir_.empty()) fs::remove_all(dir_);
  }
  fs::path quantized() const { return dir_ / "rtn"; }

  // A prompt, then generation, each test's object of `nibble bench` in a fresh process.
  Json bench(const fs::path& model) const {
    const fs::path out = dir_ / "bench.json";
    const std::string command = fmt::format("'{}' bench '{}' -p 512 -n 8 -r 1 --json >'{}' 2>/dev/null",
                                            NIBBLE_PROGRAM, model.string(), out.string());
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return read_json_file(out);
  }

  ThreadPool pool_{available_threads()};
  fs::path file_, text_, dir_;
};

// One test: quantizing the model is most of the time.
TEST_P(Runtime, Int8ActivationsStayNearFloat32AndMemoryIsTheFileTheCacheAndLittleMore) {
  const auto model = load_model(quantized());
  CompareOptions options{.window = 256, .windows = 4, .base_precision = Precision{.int8 = false}};
  const Comparison c =
      compare_models(model, {model}, model->load_tokenizer(), read_file(text_), options, pool_, {}).front();
  std::cout << fmt::format("{}: KL of int8 against float32 activations {:.5f} ± {:.5f}\n", GetParam().title,
                           c.kl_mean, c.kl_stderr);
  EXPECT_LE(c.kl_mean, 0.002);
  EXPECT_GT(c.kl_mean, 0);

  const Json quantized = bench(this->quantized()), baseline = bench(file_);
  ASSERT_EQ(quantized.size(), 2u);
  ASSERT_EQ(baseline.size(), 2u);
  // The peak is the process's, over both tests. Tiles' bf16 rows take 2 MB more than int8 ones: there the
  // cache of the test before counts too.
  const bool tiles = kernels().packed_bf16 != nullptr;
  double cache = 0;
  for (size_t test = 0; test < 2; ++test) {
    const Json &memory = quantized[test].at("memory_bytes"), &phases = quantized[test].at("peak_rss_bytes");
    const Json& base_phases = baseline[test].at("peak_rss_bytes");
    const double file = memory.at("file"), peak = memory.at("peak_rss");
    cache = std::max(tiles ? cache : 0.0, memory.at("kv_cache").get<double>());
    std::cout << fmt::format(
        "{} {}: peak {:.1f} MB, file {:.1f}, cache {:.1f}; load {:.1f}, baseline's {:.1f}\n",
        GetParam().title, quantized[test].at("test").get<std::string>(), peak / 1e6, file / 1e6, cache / 1e6,
        phases.at("load").get<double>() / 1e6, base_phases.at("load").get<double>() / 1e6);
    EXPECT_LE(peak, file + cache + 40e6);
    for (const char* phase : {"load", "test"}) {
      ASSERT_TRUE(phases.at(phase).is_number()) << phase;
      EXPECT_LT(phases.at(phase), base_phases.at(phase)) << phase;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Runtime,
                         ::testing::Values(RealModel{"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                                           RealModel{"qwen", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"}),
                         [](const auto& parameter) { return parameter.param.title; });

}  // namespace
}  // namespace nibble
