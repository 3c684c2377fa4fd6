#include "report/choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Variant kGptq = testing::quantized("alpha", "gptq", 64), kGsq = testing::quantized("alpha", "gsq", 64),
              kFine = testing::quantized("alpha", "gptq", 16);

class ChoiceTest : public ::testing::Test {
 protected:
  void SetUp() override { study_.add_healthy_model("alpha"); }
  Choice chosen() {
    view_ = load_study(study_.store());
    return choose(view_).at(0);
  }
  void set_bytes(const Variant& variant, uint64_t bytes) {
    VariantFacts facts = testing::facts_of(variant);
    facts.file_bytes = bytes;
    study_.store().set_facts(variant, facts);
  }

  testing::SyntheticStudy study_;
  StudyView view_;
};

TEST_F(ChoiceTest, TheSmallestFileThatLosesNothing) {
  set_bytes(kGptq, 6000000);
  set_bytes(kGsq, 5000000);
  const Choice choice = chosen();
  EXPECT_TRUE(choice.keeps);
  EXPECT_EQ(choice.variant->label(), "gsq g64");
  EXPECT_EQ(choice.reason,
            "Smallest file of the 2 (of 2 configurations) that lose no measurable accuracy on any task.");
  EXPECT_THAT(choice.cautions, Contains(HasSubstr("points would not have shown")));
}

TEST_F(ChoiceTest, AmongFilesOfOneSizeTheLowerPerplexity) {
  set_bytes(kGptq, 5050000);
  set_bytes(kGsq, 5000000);
  study_.store().save(testing::perplexity_cell(kGsq, 1.56, -0.01));
  const Choice choice = chosen();
  EXPECT_EQ(choice.variant->label(), "gptq g64");
  EXPECT_THAT(choice.reason, HasSubstr("the lower perplexity decides"));
}

TEST_F(ChoiceTest, ALossRulesOutTheSmaller) {
  set_bytes(kGptq, 6000000);
  set_bytes(kGsq, 5000000);
  std::vector<size_t> lost;
  for (size_t i = 0; i < 100; i += 10) lost.insert(lost.end(), {i, i + 1});
  study_.store().save(testing::choice_cell(kGsq, testing::flipped(testing::eighty_right(), lost)));
  EXPECT_EQ(chosen().variant->label(), "gptq g64");
  EXPECT_THAT(chosen().reason, HasSubstr("The only one of 2 configurations"));
}

TEST_F(ChoiceTest, ABlowUpRulesOut) {
  set_bytes(kGptq, 6000000);
  set_bytes(kGsq, 5000000);
  study_.store().save(testing::perplexity_cell(kGsq, 1.5 + 0.5));
  EXPECT_EQ(chosen().variant->label(), "gptq g64");
}

TEST_F(ChoiceTest, NoneKeeps) {
  std::vector<size_t> lost, more;
  for (size_t i = 0; i < 100; i += 10) lost.insert(lost.end(), {i, i + 1});
  more = lost;
  more.insert(more.end(), {2, 3, 4, 5});
  study_.store().save(testing::choice_cell(kGsq, testing::flipped(testing::eighty_right(), lost)));
  study_.store().save(testing::choice_cell(kGptq, testing::flipped(testing::eighty_right(), more)));
  const Choice choice = chosen();
  EXPECT_FALSE(choice.keeps);
  EXPECT_EQ(choice.variant->label(), "gsq g64");
  EXPECT_EQ(choice.reason,
            "None of 2 configurations keeps the baseline's quality; this one loses least: measurably worse "
            "on boolq.");
}

TEST_F(ChoiceTest, WhatIsNotMeasuredIsNotNamed) {
  set_bytes(kFine, 4000000);
  study_.store().save(testing::choice_cell(kFine, testing::eighty_right()));
  Cell planned;
  planned.variant = kFine;
  planned.task = "gsm8k";
  study_.store().plan({planned});
  const Choice choice = chosen();
  EXPECT_NE(choice.variant->label(), "gptq g16");
  EXPECT_THAT(choice.cautions, Contains(HasSubstr("1 configuration left out")));
}

TEST_F(ChoiceTest, NothingMeasuredNamesNone) {
  testing::SyntheticStudy empty;
  Cell planned;
  planned.variant = kGptq;
  planned.task = "boolq";
  empty.store().plan({planned});
  const StudyView view = load_study(empty.store());
  const std::vector<Choice> choices = choose(view);
  ASSERT_EQ(choices.size(), 1u);
  EXPECT_EQ(choices[0].variant, nullptr);
  EXPECT_THAT(choices[0].reason, HasSubstr("No quantized variant has a result"));
}

}  // namespace
}  // namespace nibble::report
