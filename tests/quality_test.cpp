// What quantization loses on the mini models: GPTQ and GSQ against plain rounding.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <ostream>

#include "base/file.h"
#include "eval/compare_run.h"
#include "quant/quantize.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

struct Case {
  const char* model;
  int group_size;
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " g" << c.group_size; }
};

class Quality : public ::testing::TestWithParam<Case> {
 protected:
  struct Outcome {
    double kl = 0, file_bytes = 0;
    int linears = 0, no_worse = 0;  // than rounding, by relative output error
  };

  void SetUp() override {
    dir_ = fs::temp_directory_path() /
           fmt::format("nibble-quality-{}-{}-{}", GetParam().model, GetParam().group_size, ::getpid());
    base_ = load_model(testing::mini_dir() / "models" / GetParam().model);
  }
  void TearDown() override { fs::remove_all(dir_); }

  Outcome quantized(const std::string& method, const Precision& precision = {}) {
    QuantizeOptions options;
    options.plan.base.method = method;
    options.plan.base.group_size = GetParam().group_size;
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 32;
    const OrderedJson report = quantize_model(base_, options, dir_, true, pool_, {});
    Outcome out;
    out.file_bytes = report["totals"]["file_bytes"].get<double>();
    for (const OrderedJson& layer : report["linears"]) {
      if (layer["error"].is_null()) continue;
      ++out.linears;
      out.no_worse += layer["error"].get<double>() <= layer["rtn_error"].get<double>();
    }
    out.kl = compare(load_model(dir_), precision);
    return out;
  }

  double compare(const std::shared_ptr<const Model>& quantized, const Precision& precision) {
    CompareOptions options{.window = 512, .windows = 0};  // the whole text: its KL is heavy-tailed
    options.precision = precision;
    const std::string text = read_file(testing::mini_dir() / "data" / "wikitext.test.txt");
    return compare_models(base_, quantized, base_->load_tokenizer(), text, options, pool_, {}).kl_mean;
  }

  ThreadPool pool_{2};
  fs::path dir_;
  std::shared_ptr<const Model> base_;
};

TEST_P(Quality, BothMethodsLoseLessThanRounding) {
  const Outcome rtn = quantized("rtn");
  EXPECT_LT(rtn.file_bytes, 0.45 * static_cast<double>(base_->checkpoint().file_bytes));
  for (const char* method : {"gptq", "gsq"}) {
    const Outcome outcome = quantized(method);
    EXPECT_GT(outcome.linears, 30);
    EXPECT_GE(outcome.no_worse, 0.95 * outcome.linears) << method;
    EXPECT_LT(outcome.kl, rtn.kl) << method;
    EXPECT_GT(outcome.kl, 0) << method;
  }
}

INSTANTIATE_TEST_SUITE_P(Mini, Quality,
                         ::testing::Values(Case{"llama-mini", 16}, Case{"llama-mini", 64},
                                           Case{"llama-mini", 128}, Case{"qwen2-mini", 16},
                                           Case{"qwen2-mini", 64}, Case{"qwen2-mini", 128},
                                           Case{"phi-mini", 16}, Case{"phi-mini", 64}, Case{"phi-mini", 128}),
                         [](const auto& parameter) {
                           std::string name =
                               fmt::format("{}_g{}", parameter.param.model, parameter.param.group_size);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
