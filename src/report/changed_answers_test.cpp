#include "report/changed_answers.h"

#include <gtest/gtest.h>

#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using testing::kBase;
using testing::kGptq;
using testing::kGsq;

TEST(ChangedAnswers, RowsThatSomeVariantAnswersOtherwise) {
  testing::SyntheticStudy study;
  study.store().save(testing::choice_cell(kBase, "1100"));
  study.store().save(testing::choice_cell(kGptq, "1010"));
  study.store().save(testing::choice_cell(kGsq, "0100"));
  const StudyView view = load_study(study.store());
  const auto found = changed_answers(study.store(), view, 100000);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rows, 4u);
  EXPECT_EQ(found[0].changed, 3u);
  ASSERT_EQ(found[0].shown.size(), 3u);
  EXPECT_EQ(found[0].shown[0].key, "0");  // in the order of the data
  ASSERT_EQ(found[0].shown[0].changed.size(), 1u);
  EXPECT_EQ(found[0].shown[0].changed[0].first, 2u);  // gsq
  EXPECT_FALSE(found[0].shown[0].changed[0].second.right);
  EXPECT_TRUE(found[0].shown[0].baseline.right);
  EXPECT_EQ(found[0].shown[1].key, "1");
  EXPECT_EQ(found[0].shown[1].changed[0].first, 1u);  // gptq
}

TEST(ChangedAnswers, FlipsComeFirstAndTextsAreCut) {
  testing::SyntheticStudy study;
  Cell before = testing::math_cell(kBase, "rww"), after = testing::math_cell(kGptq, "rrr");
  after.result->samples[1].score = 0;
  after.result->samples[1].prediction = "99";
  for (Cell* cell : {&before, &after}) {
    for (Sample& s : cell->result->samples) s.prompt = std::string(3000, 'x') + "€ the question";
    study.store().save(*cell);
  }
  const auto found = changed_answers(study.store(), load_study(study.store()), 100000);
  ASSERT_EQ(found.at(0).shown.size(), 2u);
  EXPECT_EQ(found[0].shown[0].key, "2");  // wrong → right
  EXPECT_EQ(found[0].shown[1].key, "1");  // wrong → another wrong
  const ChangedRow& row = found[0].shown[0];
  EXPECT_EQ(row.prompt.size() + row.prompt_left_out, 3000 + std::string("€ the question").size());
  EXPECT_TRUE(row.prompt.ends_with("€ the question"));
  EXPECT_EQ(row.prompt.size(), 1600u);
}

TEST(ChangedAnswers, StaysWithinItsBudgetAndSaysHowManyThereAre) {
  testing::SyntheticStudy study;
  study.store().save(testing::choice_cell(kBase, std::string(100, '1')));
  study.store().save(testing::choice_cell(kGptq, std::string(100, '0')));
  const auto found = changed_answers(study.store(), load_study(study.store()), 1500);
  EXPECT_EQ(found.at(0).changed, 100u);
  EXPECT_GT(found[0].shown.size(), 3u);
  EXPECT_LT(found[0].shown.size(), 20u);
}

TEST(ChangedAnswers, NoneOfPerplexities) {
  testing::SyntheticStudy study;
  study.store().save(testing::perplexity_cell(kBase, 1.5));
  study.store().save(testing::perplexity_cell(kGptq, 1.6));
  EXPECT_TRUE(changed_answers(study.store(), load_study(study.store()), 1000).empty());
}

}  // namespace
}  // namespace nibble::report
