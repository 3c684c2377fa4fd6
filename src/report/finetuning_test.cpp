// A base and a fine-tuned model side by side, on results known beforehand.
#include "report/finetuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "report/markdown.h"
#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::HasSubstr;

class FineTuned : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string right = testing::eighty_right();
    // The base loses rows 0 and 1 of 100 and wins row 8; the fine-tuned model loses 0, 1 and 10 to 12.
    add("alpha", right, testing::flipped(right, {0, 1, 8}), {0.02, 0.01, 0.03});
    add("tuned", right, testing::flipped(right, {0, 1, 10, 11, 12}), {0.05, 0.06, 0.03});
  }
  void add(const std::string& model, const std::string& before, const std::string& after,
           const std::vector<double>& errors) {
    const Variant base = testing::baseline(model), gptq = testing::quantized(model, "gptq", 64);
    study_.store().set_facts(base, testing::facts_of(base));
    VariantFacts facts = testing::facts_of(gptq);
    Json linears = Json::array();
    for (size_t i = 0; i < errors.size(); ++i)
      linears.push_back({{"name", fmt::format("linear {}", i)}, {"error", errors[i]}});
    facts.quantization_report = {{"linears", linears}};
    study_.store().set_facts(gptq, facts);
    study_.store().save(testing::choice_cell(base, before));
    study_.store().save(testing::choice_cell(gptq, after));
    study_.store().save(testing::perplexity_cell(base, 2.0));
    study_.store().save(testing::perplexity_cell(gptq, model == "alpha" ? 2.05 : 2.2, 0.01));
  }
  testing::SyntheticStudy study_;
};

TEST_F(FineTuned, NothingIsSaidWhereNoPairIsNamed) {
  EXPECT_EQ(render_fine_tuned(load_study(study_.store())), "");
}

TEST_F(FineTuned, LossesAreHeldAgainstEachOtherRowByRow) {
  study_.store().set_meta("finetuned", R"([{"model":"tuned","base":"alpha"}])");
  const StudyView study = load_study(study_.store());
  const auto pairs = fine_tuned_pairs(study);
  ASSERT_EQ(pairs.size(), 1u);
  ASSERT_EQ(pairs[0].variants.size(), 1u);
  const FineTunedVariant& gptq = pairs[0].variants[0];
  EXPECT_EQ(gptq.label, "gptq g64");
  ASSERT_EQ(gptq.measures.size(), 3u);
  const FineTunedMeasure& boolq = gptq.measures[0];
  ASSERT_EQ(boolq.missing, "");
  EXPECT_NEAR(boolq.base, -0.01, 1e-12);
  EXPECT_NEAR(boolq.tuned, -0.05, 1e-12);
  EXPECT_NEAR(boolq.difference, -0.04, 1e-12);
  // Four rows of 100 differ by −1: the common losses cancel out.
  EXPECT_NEAR(boolq.error, std::sqrt((4 - 100 * 0.04 * 0.04) / 99 / 100), 1e-9);
  const FineTunedMeasure& wikitext = gptq.measures[1];
  EXPECT_TRUE(wikitext.is_ratio);
  EXPECT_NEAR(wikitext.base, 0.05, 1e-9);
  EXPECT_NEAR(wikitext.difference, 0.15, 1e-9);
  EXPECT_NEAR(wikitext.error, 0, 1e-9);
  EXPECT_EQ(gptq.measures[2].missing, "base: not measured");
  ASSERT_EQ(gptq.layers.size(), 2u);  // the third did not grow
  EXPECT_EQ(gptq.layers[0].name, "linear 1");
  const std::string text = render_fine_tuned(study);
  EXPECT_THAT(text, HasSubstr("### tuned, fine-tuned from alpha"));
  EXPECT_THAT(text, HasSubstr("6.00"));
  EXPECT_THAT(render_markdown(make_report(study_.store())), HasSubstr(text));
}

// Other rows are no pair.
TEST_F(FineTuned, OtherRowsAreNotCompared) {
  study_.store().set_meta("finetuned", R"([{"model":"tuned","base":"alpha"}])");
  const std::string shorter = testing::eighty_right().substr(0, 50);
  study_.store().save(testing::choice_cell(testing::baseline("tuned"), shorter));
  study_.store().save(testing::choice_cell(testing::quantized("tuned", "gptq", 64), shorter));
  EXPECT_EQ(fine_tuned_pairs(load_study(study_.store()))[0].variants[0].measures[0].missing,
            "the two models were not asked the same rows");
}

}  // namespace
}  // namespace nibble::report
