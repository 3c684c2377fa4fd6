#include "report/table1.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::kBase;
using testing::kGptq;
using ::testing::StartsWith;
using testing::SyntheticStudy;

const Variant kGsq16 = testing::quantized("alpha", "gsq", 16);
const Variant kGsq128 = testing::quantized("alpha", "gsq", 128);

class Table1Test : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const Variant& v : {kBase, kGptq, kGsq16, kGsq128})
      study_.store().set_facts(v, testing::facts_of(v));
  }
  Table1Row only_row() {
    view_ = load_study(study_.store());
    auto rows = table1(view_);
    EXPECT_EQ(rows.size(), 1u);
    return std::move(rows.at(0));
  }
  SyntheticStudy study_;
  StudyView view_;
  const std::string right_ = testing::eighty_right();
};

TEST_F(Table1Test, ATieIsCalledATieAndTheSmallestFileIsShown) {
  study_.store().save(testing::choice_cell(kBase, right_));
  study_.store().save(testing::choice_cell(kGptq, testing::flipped(right_, {0, 1})));
  study_.store().save(testing::choice_cell(kGsq16, right_));
  study_.store().save(testing::choice_cell(kGsq128, testing::flipped(right_, {0, 1, 2, 10, 8})));
  const Table1Row row = only_row();
  EXPECT_EQ(row.best->label(), "gsq g128");
  EXPECT_EQ(row.tied.size(), 3u);
  EXPECT_THAT(row.observation, EndsWith("; 3 of 3 configurations tie, the smallest file is shown."));
  EXPECT_THAT(row.observation,
              StartsWith("No measurable difference at 26 % of the size (answers lost: 4, won: 1)"));
}

TEST_F(Table1Test, AClearWinnerIsNotATie) {
  std::vector<size_t> lost;
  for (size_t i = 0; i < 100; i += 10) lost.insert(lost.end(), {i, i + 1, i + 2});
  study_.store().save(testing::choice_cell(kBase, right_));
  study_.store().save(testing::choice_cell(kGsq16, right_));
  study_.store().save(testing::choice_cell(kGsq128, testing::flipped(right_, lost)));
  const Table1Row row = only_row();
  EXPECT_EQ(row.best->label(), "gsq g16");
  EXPECT_TRUE(row.tied.empty());
  EXPECT_EQ(row.tie_note, "");
  EXPECT_EQ(score_text(row.best_cell, row.missing_best).substr(0, 4), "80.0");
  EXPECT_EQ(change_in_full(row.memory, row.missing_memory), "−16.0 MB (−26.7 %)");
  EXPECT_EQ(change_in_full(row.size, row.missing_size), "−13.0 MB (−65.0 %)");
}

TEST_F(Table1Test, LowerPerplexityWins) {
  study_.store().save(testing::perplexity_cell(kBase, 1.5));
  study_.store().save(testing::perplexity_cell(kGptq, 1.8));
  study_.store().save(testing::perplexity_cell(kGsq16, 1.6, 0.01));
  const Table1Row row = only_row();
  EXPECT_EQ(row.best->label(), "gsq g16");
  EXPECT_EQ(row.observation, "Perplexity grows by 10.5 % at 35 % of the size.");
}

TEST_F(Table1Test, ALossIsNamedWithItsFlips) {
  study_.store().save(testing::choice_cell(kBase, right_));
  study_.store().save(
      testing::choice_cell(kGptq, testing::flipped(right_, {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9})));
  const Table1Row row = only_row();
  EXPECT_EQ(row.observation, "Loses 8.0 points at 28 % of the size (answers lost: 10, won: 2).");
  EXPECT_EQ(significance_text(row.best_cell->to_baseline), "worse");
}

TEST_F(Table1Test, MissingCellsPrintTheirReasonAndNoNumber) {
  Cell failed;
  failed.variant = kBase;
  failed.task = "boolq";
  failed.status = CellStatus::kFailed;
  failed.reason = "killed by signal 9";
  study_.store().save(failed);
  study_.store().save(testing::choice_cell(kGptq, right_));
  Table1Row row = only_row();
  EXPECT_EQ(score_text(row.baseline_cell, row.missing_baseline), "missing (killed by signal 9)");
  EXPECT_EQ(change_text(row.memory, row.missing_memory), "missing (baseline: killed by signal 9)");
  EXPECT_EQ(row.observation, "Nothing to compare with: baseline missing (killed by signal 9).");

  failed.variant = kGptq;
  study_.store().save(failed);
  study_.store().save(testing::choice_cell(kBase, right_));
  row = only_row();
  EXPECT_EQ(row.best, nullptr);
  EXPECT_EQ(score_text(row.best_cell, row.missing_best), "missing (gptq g64: killed by signal 9)");
}

TEST_F(Table1Test, AConstantBaselineIsCalledOne) {
  std::string always_yes;  // right on every other row
  for (int i = 0; i < 100; ++i) always_yes += i % 2 == 0 ? '1' : '0';
  study_.store().save(testing::choice_cell(kBase, always_yes));
  study_.store().save(testing::choice_cell(kGptq, always_yes));
  EXPECT_THAT(only_row().observation, HasSubstr("the baseline itself answers 'yes' on 100.0 % of the rows"));
}

}  // namespace
}  // namespace nibble::report
