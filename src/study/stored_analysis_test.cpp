#include "study/stored_analysis.h"

#include <stdlib.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "quant/analysis.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class StoredAnalysisTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nibble_analysis_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    store_.emplace(Store::open(dir_ / "results.db"));
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(dir_);
  }
  static Variant baseline(const std::string& model) { return {model, "baseline", 16, 0}; }
  // A model of the study, measured when it has weights.
  void add_model(const std::string& name, const std::string& sha256) {
    Cell cell;
    cell.task = "boolq";
    for (const Variant& v : {baseline(name), Variant{name, "rtn", 4, 64}}) {
      cell.variant = v;
      store_->plan({cell});
      if (!sha256.empty())
        store_->set_facts(v, {v.is_baseline() ? sha256 : sha256 + " rounded", 1, 16, 1, 0, nullptr, nullptr});
    }
  }
  // What `nibble analyze --out` leaves.
  static Json analysis_of(const std::string& sha256, double error) {
    Analysis a;
    a.options.bits = {4};
    a.options.group_sizes = {64};
    a.tokens = 8;
    a.linears = {{"model.layers.0.mlp.up_proj", 0, 4, 8, {error}, {}, 0, error}};
    a.layers = {{0, {}}};
    Json json = to_json(a);
    json["sha256"] = sha256;
    return json;
  }
  std::string refusal(const Json& analysis) {
    try {
      add_analysis(*store_, analysis, "F.json");
    } catch (const Error& error) {
      return error.what();
    }
    return "taken";
  }

  fs::path dir_;
  std::optional<Store> store_;
};

TEST_F(StoredAnalysisTest, BelongsToTheModelOfItsWeightsAndTakesThePlaceOfAnOlderOne) {
  add_model("alpha", "aa");
  add_model("beta", "bb");
  for (const double error : {0.25, 0.5}) {
    EXPECT_EQ(add_analysis(*store_, analysis_of("bb", error), "F.json"), "beta");
    EXPECT_EQ(store_->analysis("beta")["linears"][0]["errors"]["4"]["64"], error);
  }
  EXPECT_TRUE(store_->analysis("alpha").is_null());
}

TEST_F(StoredAnalysisTest, OfOtherWeightsOrDamagedItIsRefused) {
  EXPECT_EQ(refusal(analysis_of("aa", 1)), "F.json: the study has no model yet; run nibble study first");
  add_model("alpha", "aa");
  add_model("beta", "");
  EXPECT_EQ(refusal(analysis_of("cc", 1)),
            "F.json: of other weights than the study's models: alpha, beta (not measured yet)");
  EXPECT_THAT(refusal(analysis_of("aa rounded", 1)), HasSubstr("of other weights"));
  EXPECT_THAT(refusal(analysis_of("", 1)), HasSubstr("does not say of which weights"));
  Json damaged = analysis_of("aa", 1);
  damaged["linears"][0].erase("errors");
  EXPECT_THAT(refusal(damaged), HasSubstr("F.json: 'errors' is missing"));
  EXPECT_TRUE(store_->analysis("alpha").is_null());
}

}  // namespace
}  // namespace nibble
