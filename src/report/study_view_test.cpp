#include "report/study_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kBase;
using testing::kGptq;
using testing::SyntheticStudy;

class StudyViewTest : public ::testing::Test {
 protected:
  // The comparison of gptq's boolq with the baseline's.
  Comparison compared() {
    view_ = load_study(study_.store());
    return view_.models.at(0).variants.at(1).find("boolq")->to_baseline;
  }
  SyntheticStudy study_;
  StudyView view_;
};

TEST_F(StudyViewTest, OrdersModelsVariantsAndTasksAsPlannedBaselineFirst) {
  Cell late = testing::choice_cell(testing::quantized("beta", "rtn", 32), "1010");
  study_.store().save(late);
  study_.add_healthy_model("alpha");
  study_.store().save(testing::choice_cell(testing::baseline("beta"), "1010"));
  const StudyView view = load_study(study_.store());
  ASSERT_EQ(view.models.size(), 2u);
  EXPECT_EQ(view.models[0].name, "beta");
  EXPECT_EQ(view.models[0].variants[0].label(), "baseline");
  EXPECT_EQ(view.models[0].variants[1].label(), "rtn g32");
  EXPECT_THAT(view.tasks, ElementsAre("boolq", "gsm8k", "wikitext"));
  EXPECT_EQ(view.comparisons, 7u);
}

TEST_F(StudyViewTest, Labels) {
  EXPECT_EQ((VariantView{{"m", "gptq", 3, 64}, {}, {}}.label()), "gptq 3-bit g64");
  EXPECT_EQ((VariantView{{"m", "gptq", 4, 0}, {}, {}}.label()), "gptq row");
  EXPECT_EQ((VariantView{{"m", "awq", 4, 128, "org/m-awq"}, {}, {}}.label()), "awq g128 (org/m-awq)");
  EXPECT_EQ((VariantView{{"m", "awq", 4, 128, "/models/m-awq/"}, {}, {}}.label()), "awq g128 (m-awq)");
  EXPECT_EQ((VariantView{{"m-awq", "awq", 4, 128, "m-awq"}, {}, {}}.label()), "awq g128");
}

// 10 of 100 rows lost, 2 won: McNemar's exact p = 2·(1+12+66)/2¹² by hand.
TEST_F(StudyViewTest, PairsByKeyWhateverTheOrder) {
  const std::string right = testing::eighty_right();
  study_.store().save(testing::choice_cell(kBase, right));
  Cell cell = testing::choice_cell(kGptq, testing::flipped(right, {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9}));
  std::reverse(cell.result->samples.begin(), cell.result->samples.end());
  study_.store().save(cell);
  const Comparison c = compared();
  ASSERT_EQ(c.not_comparable, "");
  EXPECT_EQ(c.pairs, 100u);
  EXPECT_EQ(c.right_to_wrong, 10);
  EXPECT_EQ(c.wrong_to_right, 2);
  EXPECT_NEAR(c.difference, -0.08, 1e-12);
  EXPECT_NEAR(c.p, 2.0 * 79 / 4096, 1e-12);
  EXPECT_EQ(c.verdict, Verdict::kWorse);
  EXPECT_LT(c.ci_high, 0);
}

TEST_F(StudyViewTest, HolmCorrectsOverAllComparisons) {
  const std::string right = testing::eighty_right();
  study_.store().save(testing::choice_cell(kBase, right));
  study_.store().save(
      testing::choice_cell(kGptq, testing::flipped(right, {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9})));
  study_.store().save(testing::choice_cell(testing::quantized("alpha", "gsq", 64), right));
  study_.store().save(testing::choice_cell(testing::quantized("alpha", "rtn", 64), right));
  const Comparison c = compared();
  EXPECT_NEAR(c.p_holm, 3 * c.p, 1e-12);
}

TEST_F(StudyViewTest, PerplexityIsComparedAsARatio) {
  study_.store().save(testing::perplexity_cell(kBase, 1.5));
  study_.store().save(testing::perplexity_cell(kGptq, 1.6, 0.01));
  const StudyView view = load_study(study_.store());
  const Comparison& c = view.models[0].variants[1].tasks[0].to_baseline;
  ASSERT_EQ(c.not_comparable, "");
  EXPECT_TRUE(c.is_ratio);
  EXPECT_NEAR(c.difference, 0.1, 1e-12);
  EXPECT_EQ(c.verdict, Verdict::kWorse);
  EXPECT_THAT(difference_text(c), HasSubstr("×1.105 ["));
}

TEST_F(StudyViewTest, SaysWhyResultsDoNotCompare) {
  const std::string right = testing::eighty_right();
  const auto why = [&](auto change) {
    study_.store().save(testing::choice_cell(kBase, right));
    Cell cell = testing::choice_cell(kGptq, right);
    change(*cell.result);
    study_.store().save(cell);
    const Comparison c = compared();
    EXPECT_EQ(c.verdict, Verdict::kNone);
    return c.not_comparable;
  };
  EXPECT_EQ(why([](TaskResult&) {}), "");
  EXPECT_EQ(why([](TaskResult& r) { r.split = "train"; }), "split validation and train");
  EXPECT_EQ(why([](TaskResult& r) { r.data_sha256 = "other"; }), "the data files differ (SHA-256)");
  EXPECT_EQ(why([](TaskResult& r) { r.shots = 3; }), "0 shots and 3");
  EXPECT_EQ(why([](TaskResult& r) { r.seed = 1; }), "seed 0 and 1");
  EXPECT_EQ(why([](TaskResult& r) { r.task_version = 2; }), "task version 1 and 2");
  EXPECT_EQ(why([](TaskResult& r) { r.samples.pop_back(); }), "100 rows and 99");
  EXPECT_EQ(why([](TaskResult& r) { r.samples[4].key = "x"; }), "row '4' has no partner");
  EXPECT_EQ(why([](TaskResult& r) { r.samples[4].key = "5"; }), "row '5' is stored twice");
  EXPECT_EQ(why([](TaskResult& r) { r.samples[4].prompt = "x"; }), "row '4' has another prompt or answer");
  EXPECT_EQ(why([](TaskResult& r) { r.samples[4].score = NAN; }),
            "row '4' has a score that is not a finite number");
  EXPECT_EQ(why([](TaskResult& r) { r.samples.clear(); }), "no rows stored");
}

TEST_F(StudyViewTest, NamesWhatIsMissing) {
  Cell failed;
  failed.variant = kBase;
  failed.task = "boolq";
  failed.status = CellStatus::kFailed;
  failed.reason = "out of memory";
  study_.store().save(failed);
  study_.store().save(testing::choice_cell(kGptq, "1010"));
  Cell planned;
  planned.variant = kGptq;
  planned.task = "bench";
  study_.store().plan({planned});
  EXPECT_EQ(compared().not_comparable, "baseline missing (out of memory)");
  EXPECT_EQ(view_.models[0].variants[0].find("boolq")->missing, "out of memory");
  EXPECT_EQ(view_.models[0].variants[1].find("bench")->missing, "not run yet");
}

}  // namespace
}  // namespace nibble::report
