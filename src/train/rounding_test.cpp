// Learned rounding: that it begins where the method ended, its straight-through gradient, and that a block's
// error falls.
#include "train/rounding.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/file.h"
#include "base/random.h"
#include "io/safetensors.h"
#include "quant/method.h"
#include "quant/methods.h"
#include "quant/quantize.h"
#include "test_data.h"
#include "train/tune.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRows = 16, kColumns = 96;

std::vector<float> random_weights(uint64_t seed) {
  Random random(seed);
  std::vector<float> w(kRows * kColumns);
  for (float& x : w) x = static_cast<float>(random.uniform() + random.uniform() - 1) * 0.3f;
  return w;
}

enum class Grids { kAsymmetric, kSymmetric, kByteScales };

class Rounding : public ::testing::TestWithParam<Grids> {
 protected:
  static bool symmetric() { return GetParam() == Grids::kSymmetric; }
  static PackedFormat format() {
    PackedFormat f{3, 64, symmetric(), kRows, kColumns};
    if (GetParam() == Grids::kByteScales) f.scale_type = ScaleType::kByte;
    return f;
  }
  QuantizedMatrix start(const std::vector<float>& w) {
    return quantize_rtn(w, {}, {format(), 0, false, true}, pool_).matrix;
  }
  ThreadPool pool_{2};
};

TEST_P(Rounding, BeginsWithTheMethodsIntegersWhateverTheyAre) {
  std::vector<float> w = random_weights(1);
  QuantizedMatrix method = start(w);
  // Another integer than the nearest, and folded channel scales.
  for (size_t i = 0; i < method.codes.size(); i += 5)
    method.codes[i] = static_cast<uint8_t>(method.codes[i] == 0 ? 1 : method.codes[i] - 1);
  for (size_t i = 0; i < w.size(); ++i) w[i] *= 1.0f + 0.02f * static_cast<float>(i % kColumns);
  const LearnedRounding learned(method, w, pool_);
  const QuantizedMatrix stored = learned.stored(pool_);
  EXPECT_EQ(stored.codes, method.codes);
  EXPECT_EQ(stored.scales, method.scales);
  EXPECT_EQ(stored.zeros, method.zeros);
  EXPECT_EQ(learned.changed(stored), 0);
}

// One step against the gradient of ‖values − wanted‖²: the integers follow, and what is stored is what acted.
TEST_P(Rounding, StepsBringTheValuesNearer) {
  const std::vector<float> w = random_weights(2);
  std::vector<float> wanted = w, values(w.size()), gradient(w.size());
  Random random(3);
  for (float& x : wanted) x += static_cast<float>(random.uniform() - 0.5) * 0.1f;
  LearnedRounding learned(start(w), w, pool_);
  const auto distance = [&] {
    learned.values(values.data(), pool_);
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      gradient[i] = 2 * (values[i] - wanted[i]);
      sum += double{gradient[i]} * double{gradient[i]};
    }
    return sum;
  };
  const double before = distance();
  for (int i = 0; i < 20; ++i) {
    learned.step(gradient.data(), 0.02f, 0.002f, pool_);
    distance();
  }
  EXPECT_LT(distance(), 0.9 * before);
  const QuantizedMatrix stored = learned.stored(pool_);
  EXPECT_GT(learned.changed(stored), 0);
  EXPECT_EQ(dequantize(stored, pool_), values);
}

// Rounding taken for the constant that it adds at this point, the grid's ends have a true derivative.
TEST_P(Rounding, TheGradientOfTheEndsIsAFiniteDifference) {
  Random random(4);
  const PackedFormat f = format();
  const double top = f.max_code(), middle = f.middle();
  const float scale = 0.0625f;
  const int zero = symmetric() ? f.middle() : 2;
  std::vector<float> w(64), v(64), dw(64);
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<float>(random.uniform() - 0.5) * 0.8f;  // some beyond both ends
    v[i] = static_cast<float>(random.uniform() - 0.5) * 0.6f;
    dw[i] = static_cast<float>(random.uniform() - 0.5);
  }
  // Σ dw·value for a grid from low to high (symmetric: low is the scale).
  const auto loss = [&](double low, double high) {
    const double s = symmetric() ? low : (high - low) / top, z = symmetric() ? middle : -low / s;
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const double at = double{w[i]} / double{scale} + double{v[i]};
      const double added = std::nearbyint(at) - at;
      const double code = double{w[i]} / s + double{v[i]} + added + z;
      // Which weights lie beyond the ends is decided at the point itself.
      const double there = std::nearbyint(at) + zero;
      const double clamped = there < 0 ? 0 : there > top ? top : code;
      sum += double{dw[i]} * s * (clamped - z);
    }
    return sum;
  };
  const double low = symmetric() ? double{scale} : -double{scale} * zero, high = double{scale} * (top - zero);
  const EndsGradient found = ends_gradient(w, v, dw, scale, zero, f);
  constexpr double kStep = 1e-6;
  const double by_low = (loss(low + kStep, high) - loss(low - kStep, high)) / (2 * kStep);
  const double by_high = (loss(low, high + kStep) - loss(low, high - kStep)) / (2 * kStep);
  ASSERT_GT(std::fabs(by_low), 0.1);
  EXPECT_NEAR(found.low, by_low, 1e-4 * std::fabs(by_low));
  EXPECT_NEAR(found.high, by_high, 1e-4 * std::fabs(by_high));
}

INSTANTIATE_TEST_SUITE_P(Of, Rounding,
                         ::testing::Values(Grids::kAsymmetric, Grids::kSymmetric, Grids::kByteScales),
                         [](const auto& p) {
                           return p.param == Grids::kSymmetric    ? "Symmetric"
                                  : p.param == Grids::kAsymmetric ? "Asymmetric"
                                                                  : "ByteScales";
                         });

class RoundBlocks : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nibble-rounding-{}", ::getpid());
    text_.files = bundled_calibration(testing::mini_dir() / "data");
    text_.samples = 2;
    text_.seqlen = 64;
    options_.rounding = true;
    options_.scales = false;
    options_.tokens = 64;
    options_.held_out = 4;
    options_.blocks = {.steps = 12, .batch = 2, .sequences = 24, .rate = 0.01, .checks = 3};
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
  // Stops at the call of progress with this number; 0: never.
  OrderedJson run(const fs::path& out, int stop = 0) {
    struct Stop {};
    QuantizeOptions quantize;
    quantize.plan.base = {"rtn", 3, 64, false};
    quantize.layer.error_limit = quantize.layer.growth_limit = 1e9;
    quantize.calibration = text_;
    quantize.to_complete = true;
    quantize_model(model_, quantize, out, false, pool_, nullptr);
    int calls = 0;
    try {
      return tune_directory(model_, out, text_, options_, pool_, nullptr, {}, [&](int, int, double) {
        if (++calls == stop) throw Stop{};
      });
    } catch (const Stop&) {
      return {};
    }
  }

  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / "qwen2-mini");
  ThreadPool pool_{2};
  fs::path dir_;
  CalibrationOptions text_;
  TuneOptions options_;
};

TEST_F(RoundBlocks, EachBlocksErrorFallsAndSoDoesTheDistance) {
  const OrderedJson report = run(dir_);
  const OrderedJson& rounding = report["tune"]["rounding"];
  ASSERT_EQ(rounding["blocks"].size(), model_->blocks.size());
  for (const OrderedJson& block : rounding["blocks"]) {
    EXPECT_LT(block["error_after"].get<double>(), block["error_before"].get<double>());
    EXPECT_GT(block["changed"].get<double>(), 0);
  }
  EXPECT_TRUE(rounding["kept"].get<bool>());
  EXPECT_LT(rounding["kl_after"].get<double>(), rounding["kl_before"].get<double>());
  const auto tuned = load_model(dir_);
  EXPECT_EQ(report["model_sha256"], checkpoint_sha256(tuned->checkpoint()));
  EXPECT_EQ(tuned->checkpoint().config.at("quantization_config").at("tuned"), "rounding");
}

TEST_F(RoundBlocks, AHarmfulRateLeavesTheMethodsResult) {
  options_.blocks.rate = 1;
  const OrderedJson report = run(dir_);
  for (const OrderedJson& block : report["tune"]["rounding"]["blocks"]) EXPECT_EQ(block["best_step"], 0);
  EXPECT_FALSE(report["tune"]["rounding"]["kept"].get<bool>());
  EXPECT_FALSE(load_model(dir_)->checkpoint().config.at("quantization_config").contains("tuned"));
}

TEST_F(RoundBlocks, AStoppedOneGoesOnAndScalesFollow) {
  options_.scales = true;
  options_.steps = 4;
  options_.rate = 3e-3;
  const fs::path whole = dir_ / "whole", pieces = dir_ / "pieces";
  OrderedJson expected = run(whole);
  EXPECT_EQ(expected["tune"]["parts"], "rounding+scales");
  EXPECT_LT(expected["tune"]["checks"].back()["kl"].get<double>(),
            expected["tune"]["rounding"]["kl_before"].get<double>());
  for (const int stop : {5, 20, 30}) EXPECT_TRUE(run(pieces, stop).is_null());
  EXPECT_FALSE(fs::exists(pieces / kQuantizationReport));
  EXPECT_TRUE(fs::exists(pieces / "unfinished" / "rounding"));
  OrderedJson found = run(pieces);
  EXPECT_EQ(found["tune"]["rounding"]["blocks"].size(), expected["tune"]["rounding"]["blocks"].size());
  EXPECT_EQ(found["tune"]["checks"], expected["tune"]["checks"]);
  for (const char* file : {"model.safetensors", "config.json"})
    EXPECT_TRUE(read_file(pieces / file) == read_file(whole / file)) << file;
  EXPECT_FALSE(fs::exists(pieces / "unfinished"));
}

}  // namespace
}  // namespace nibble
