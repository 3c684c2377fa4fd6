// Tuning a quantized mini model: what it changes, what it keeps, and that the guard holds.
#include "train/tune.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "io/safetensors.h"
#include "quant/quantize.h"
#include "tensor/dtype.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class Tune : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nibble-tune-{}", ::getpid());
    quantize(false);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
  void quantize(bool symmetric) {
    QuantizeOptions options;
    options.plan.base = {"rtn", 4, 64, symmetric};
    options.layer.error_limit = options.layer.growth_limit = 1e9;
    quantize_model(model_, options, dir_, true, pool_, nullptr);
  }
  // Scales of the blocks' linears, all a quarter too large: something that few steps put right.
  void spoil() {
    const fs::path path = dir_ / "model.safetensors";
    const auto file = open_safetensors(path);
    std::string bytes = read_file(path);
    for (const auto& [name, view] : file.tensors) {
      if (!name.ends_with(".scales") || name.find(".layers.") == std::string::npos) continue;
      char* at = bytes.data() + (view.data - file.file->bytes().data());
      for (int64_t i = 0; i < view.elements(); ++i, at += sizeof(uint16_t)) {
        const uint16_t scaled = float_to_fp16(1.25f * fp16_to_float(view.as<uint16_t>()[i]));
        std::memcpy(at, &scaled, sizeof scaled);
      }
    }
    write_file_atomically(path, bytes);
  }
  OrderedJson tune(const TuneOptions& options) {
    CalibrationOptions text;
    text.files = bundled_calibration(testing::mini_dir() / "data");
    return tune_directory(model_, dir_, text, options, pool_, [&](int, int, double) { ++calls_; });
  }
  static std::vector<std::byte> bytes_of(const TensorView& view) {
    return {view.data, view.data + view.bytes()};
  }

  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / "qwen2-mini");
  ThreadPool pool_{2};
  fs::path dir_;
  int calls_ = 0;
};

TEST_F(Tune, LowersTheHeldOutDistanceAndChangesScalesAlone) {
  spoil();
  const auto before = load_model(dir_);
  const OrderedJson report = tune({.steps = 24, .tokens = 64, .rate = 0.02, .checks = 2, .held_out = 4});
  EXPECT_GE(calls_, 24);
  const OrderedJson& checks = report["tune"]["checks"];
  ASSERT_EQ(checks.size(), 3u);
  EXPECT_EQ(report["tune"]["best_step"], 24);
  EXPECT_LT(checks[2]["kl"].get<double>(), 0.7 * checks[0]["kl"].get<double>());
  EXPECT_EQ(report["tune"]["tokens"], 24 * 64);
  EXPECT_EQ(parse_json(read_file(dir_ / kQuantizationReport), "report").at("tune").at("best_step"), 24);
  const auto after = load_model(dir_);
  EXPECT_EQ(report["model_sha256"], checkpoint_sha256(after->checkpoint()));
  EXPECT_EQ(after->checkpoint().config.at("quantization_config").at("tuned"), "scales");
  ASSERT_EQ(after->checkpoint().tensors.size(), before->checkpoint().tensors.size());
  for (const auto& [name, view] : before->checkpoint().tensors) {
    const bool scales = name.ends_with(".scales") && name.find(".layers.") != std::string::npos;
    EXPECT_EQ(bytes_of(view) == bytes_of(after->checkpoint().tensors.at(name)), !scales) << name;
  }
}

// What was written is what the last check measured.
TEST_F(Tune, TheHeldOutDistanceIsThatOfTheFile) {
  const TuneOptions options{
      .zeros = true, .steps = 6, .tokens = 64, .rate = 2e-3, .zero_rate = 0.2, .checks = 3, .held_out = 8};
  const OrderedJson first = tune(options);
  const OrderedJson& checks = first["tune"]["checks"];
  double best = 1e9;
  for (const auto& check : checks) best = std::min(best, check["kl"].get<double>());
  const OrderedJson again = tune(options);
  EXPECT_DOUBLE_EQ(again["tune"]["checks"][0]["kl"].get<double>(), best);
}

TEST_F(Tune, AHarmfulRateLeavesTheModelAsItWas) {
  const std::string before = read_file(dir_ / "model.safetensors");
  const OrderedJson report = tune({.steps = 4, .tokens = 64, .rate = 0.9, .checks = 2, .held_out = 4});
  EXPECT_EQ(report["tune"]["best_step"], 0);
  EXPECT_TRUE(read_file(dir_ / "model.safetensors") == before);
}

TEST_F(Tune, RefusesWhatCannotBe) {
  EXPECT_THROW(tune({.scales = false}), UsageError);
  EXPECT_THROW(tune({.steps = 0}), UsageError);
  EXPECT_THROW(tune({.rate = 1.5}), UsageError);
  quantize(true);
  EXPECT_THROW(tune({.scales = false, .zeros = true, .steps = 2, .tokens = 32}), Error);
}

// Wherever it is stopped, the quantization with its tuning goes on and ends with the same files.
TEST_F(Tune, AStoppedOneGoesOn) {
  struct Stop {};
  QuantizeOptions options;
  options.plan.base = {"rtn", 3, 64, false};
  options.layer.error_limit = options.layer.growth_limit = 1e9;
  options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
  options.calibration.samples = 2;
  options.calibration.seqlen = 64;
  options.to_complete = true;
  const TuneOptions wanted{
      .zeros = true, .steps = 9, .tokens = 64, .rate = 3e-3, .zero_rate = 0.03, .checks = 3, .held_out = 2};
  int blocks = 0, steps = 0;
  // Stops at the call of progress with this number; 0: never.
  const auto run = [&](const fs::path& out, int stop, bool force) {
    quantize_model(model_, options, out, force, pool_, [&](int, int) { ++blocks; });
    EXPECT_FALSE(fs::exists(out / kQuantizationReport));
    int calls = 0, last = 0;
    OrderedJson report = tune_directory(model_, out, options.calibration, wanted, pool_,
                                        [&](int step, int, double) {
                                          if (++calls == stop) throw Stop{};
                                          steps += step == last + 1;
                                          last = step;
                                        },
                                        {.force = force});
    EXPECT_TRUE(fs::exists(out / kQuantizationReport));
    EXPECT_FALSE(fs::exists(out / "unfinished"));
    for (const char* key : {"seconds", "peak_rss"}) {
      report["tune"].erase(key);
      report["totals"].erase(key);
    }
    report.erase("linears");  // hold seconds
    return report;
  };
  const fs::path whole = dir_ / "whole", pieces = dir_ / "pieces";
  const OrderedJson expected = run(whole, 0, false);
  EXPECT_GT(expected["tune"]["best_step"], 0);
  const int all_blocks = blocks;
  blocks = 0;
  for (const int stop : {1, 2, 4, 3, 5}) EXPECT_THROW(run(pieces, stop, false), Stop);
  EXPECT_FALSE(fs::exists(pieces / kQuantizationReport));
  EXPECT_EQ(run(pieces, 0, false), expected);
  EXPECT_EQ(blocks, all_blocks) << "quantized again";
  for (const char* file : {"model.safetensors", "config.json"})
    EXPECT_TRUE(read_file(pieces / file) == read_file(whole / file)) << file;
  EXPECT_THROW(run(pieces, 0, false), Error);  // complete

  // Stopped between the weights and the report.
  EXPECT_THROW(run(pieces, 3, true), Stop);
  fs::copy_file(whole / "model.safetensors", pieces / "model.safetensors",
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(run(pieces, 0, false), expected);
  EXPECT_TRUE(read_file(pieces / "model.safetensors") == read_file(whole / "model.safetensors"));

  // Begun with other options.
  EXPECT_THROW(run(pieces, 3, true), Stop);
  TuneOptions other = wanted;
  other.rate = 4e-3;
  const auto go_on = [&](bool force) {
    tune_directory(model_, pieces, options.calibration, other, pool_, nullptr, {.force = force});
  };
  EXPECT_THROW(go_on(false), Error);
  go_on(true);
  EXPECT_FALSE(read_file(pieces / "model.safetensors") == read_file(whole / "model.safetensors"));
}

}  // namespace
}  // namespace nibble
