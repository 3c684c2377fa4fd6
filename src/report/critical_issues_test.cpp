#include "report/critical_issues.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kBase;
using testing::kGptq;
using testing::kGsq;
using testing::kMegabyte;
using ::testing::Not;
using testing::SyntheticStudy;

// Each test starts from a study in which every rule is judged and none finds anything.
class RuleTest : public ::testing::Test {
 protected:
  void SetUp() override { study_.add_healthy_model("alpha"); }
  void save(const Cell& cell) { study_.store().save(cell); }

  CriticalIssues find() { return find_critical_issues(load_study(study_.store())); }
  std::vector<Issue> issues_of(const std::string& rule) {
    std::vector<Issue> found;
    for (const Issue& issue : find().issues) {
      if (issue.rule == rule) found.push_back(issue);
    }
    return found;
  }
  // The one issue of this rule; no other rule may find anything.
  Issue only_issue(const std::string& rule) {
    const CriticalIssues found = find();
    EXPECT_EQ(found.issues.size(), 1u);
    for (const Issue& issue : found.issues) EXPECT_EQ(issue.rule, rule) << issue.finding;
    return found.issues.empty() ? Issue() : found.issues.front();
  }

  SyntheticStudy study_;
};

TEST_F(RuleTest, AHealthyStudyHasNoIssuesAndEveryRuleIsJudged) {
  const CriticalIssues found = find();
  for (const Issue& issue : found.issues) ADD_FAILURE() << issue.title << ": " << issue.finding;
  ASSERT_EQ(found.checks.size(), 10u);
  for (const RuleCheck& check : found.checks) {
    EXPECT_GT(check.judged, 0u) << check.title;
    EXPECT_THAT(check.not_judged, IsEmpty()) << check.title;
  }
}

TEST_F(RuleTest, MathFailureWhenWholeAnswersAreWrong) {
  save(testing::math_cell(kGptq, std::string(20, 'r') + std::string(80, 'w')));
  const Issue issue = only_issue("math_failure");
  EXPECT_EQ(issue.title, "Math failure");
  EXPECT_EQ(issue.finding,
            "gptq g64 solves 20.0 % of the problems, the baseline 60.0 %, and whole answers are wrong, too");
  EXPECT_EQ(issue.evidence.at(1).figure,
            "0 of 100 cut at the token limit, 0 empty, 0 without a number in the asked form");
  EXPECT_EQ(issue.evidence.at(2).cell, "90 answers whole on both sides");
}

TEST_F(RuleTest, ALossByCutAnswersIsNotCalledArithmetic) {
  save(testing::math_cell(kGptq, std::string(20, 'r') + std::string(20, 't') + std::string(10, 'e') +
                                     std::string(10, 'b') + std::string(40, 'w')));
  const Issue issue = only_issue("math_failure");
  EXPECT_EQ(issue.title, "Math score lost, not shown to be arithmetic");
  EXPECT_EQ(issue.evidence.at(1).figure,
            "20 of 100 cut at the token limit, 10 empty, 10 without a number in the asked form");
  EXPECT_EQ(
      issue.cause,
      "truncation: 20 of 100 answers are cut at the token limit, the baseline's 10; empty answers: 10 of "
      "100 answers are empty, the baseline's 0; format: 10 of 100 answers are without a number in the "
      "asked form, the baseline's 0");
}

// The same loss three ways, each named by its samples.
TEST_F(RuleTest, MathFailureIsToldApartFromTruncationAndFormat) {
  const auto cause_of = [&](char state) {
    save(testing::math_cell(
        kGptq, std::string(20, 'r') + std::string(40, state) + std::string(30, 'w') + std::string(10, 't')));
    return only_issue("math_failure").cause;
  };
  EXPECT_THAT(cause_of('t'),
              ::testing::StartsWith("truncation: 50 of 100 answers are cut at the token limit"));
  EXPECT_THAT(cause_of('b'), ::testing::StartsWith("format: 40 of 100 answers are without a number"));
  EXPECT_THAT(cause_of('e'), ::testing::StartsWith("empty answers: 40 of 100 answers are empty"));
  EXPECT_THAT(cause_of('w'), ::testing::StartsWith("arithmetic: "));
}

TEST_F(RuleTest, HalfTheMathScoreIsNoFailure) {
  save(testing::math_cell(kGptq, std::string(30, 'r') + std::string(70, 'w')));
  EXPECT_THAT(issues_of("math_failure"), IsEmpty());
}

TEST_F(RuleTest, AnInsignificantLossIsNoMathFailure) {
  save(testing::math_cell(kBase, "rrr" + std::string(97, 'w')));
  save(testing::math_cell(kGptq, "wrw" + std::string(97, 'w')));
  save(testing::math_cell(kGsq, "rrw" + std::string(97, 'w')));
  EXPECT_THAT(issues_of("math_failure"), IsEmpty());
}

TEST_F(RuleTest, MemoryParadoxNamesThePartThatGrew) {
  Cell cell = testing::choice_cell(kGptq, testing::eighty_right());
  cell.memory = MemoryBytes{6 * kMegabyte, 6 * kMegabyte, 5 * kMegabyte, 26 * kMegabyte, 62 * kMegabyte, 0};
  save(cell);
  const Issue issue = only_issue("memory_paradox");
  EXPECT_EQ(issue.where, "alpha");
  EXPECT_EQ(issue.evidence.at(0).cell, "gptq g64, boolq");
  EXPECT_EQ(issue.evidence.at(0).figure,
            "peak 62.0 MB, baseline 60.0 MB; workspace grew by 16.0 MB (10.0 → 26.0)");
}

TEST_F(RuleTest, MemoryParadoxCountsWhatNoPartExplainsAsOther) {
  Cell cell = testing::bench_cell(kGsq, 400, 44);
  cell.memory = MemoryBytes{6 * kMegabyte, 6 * kMegabyte, 5 * kMegabyte, 10 * kMegabyte, 60 * kMegabyte, 0};
  save(cell);
  EXPECT_THAT(only_issue("memory_paradox").finding, HasSubstr("other grew by 14.0 MB (25.0 → 39.0)"));
}

TEST_F(RuleTest, SlowerThanBaselineOnlyBeyondTheNoise) {
  save(testing::bench_cell(kGptq, 398, 45));  // 2 below, noise 2·√2
  EXPECT_THAT(find().issues, IsEmpty());
  save(testing::bench_cell(kGptq, 390, 45));
  const Issue issue = only_issue("slower_than_baseline");
  EXPECT_EQ(issue.evidence.size(), 1u);
  EXPECT_EQ(issue.evidence[0].figure, "prefill 390 ± 1.00 tokens/s, baseline 400 ± 1.00");
}

TEST_F(RuleTest, SlowerOnATaskNeedsAClearLoss) {
  Cell cell = testing::math_cell(kGptq, std::string(60, 'r') + std::string(40, 'w'));
  cell.result->output_tokens_per_s = 46;  // baseline 50
  save(cell);
  EXPECT_THAT(issues_of("slower_than_baseline"), IsEmpty());
  cell.result->output_tokens_per_s = 44;
  save(cell);
  EXPECT_EQ(only_issue("slower_than_baseline").evidence.at(0).figure,
            "decode 44.0 tokens/s in one run, baseline 50.0");
}

TEST_F(RuleTest, MissingDataGroupsCellsByReason) {
  for (const char* task : {"msmarco", "boolq2"}) {
    Cell failed;
    failed.variant = kGptq;
    failed.task = task;
    failed.status = CellStatus::kFailed;
    failed.reason = "no such file";
    save(failed);
  }
  Cell planned;
  planned.variant = kGsq;
  planned.task = "msmarco";
  study_.store().plan({planned});
  const auto issues = issues_of("missing_data");
  ASSERT_EQ(issues.size(), 2u);
  EXPECT_EQ(issues[0].finding, "2 cells: no such file");
  EXPECT_EQ(issues[0].evidence.at(1).cell, "gptq g64, boolq2");
  EXPECT_EQ(issues[1].finding, "gsq g64, msmarco: not run yet");
}

TEST_F(RuleTest, MissingDataNamesWhatDoesNotCompare) {
  Cell cell = testing::choice_cell(kGptq, testing::eighty_right());
  cell.result->split = "train";
  save(cell);
  EXPECT_EQ(only_issue("missing_data").finding,
            "gptq g64, boolq: measured, but not comparable with its baseline: split validation and train");
}

TEST_F(RuleTest, RulesThatCannotBeJudgedAreMissingData) {
  SyntheticStudy bare;
  bare.store().save(testing::choice_cell(kBase, "1010"));
  const CriticalIssues found = find_critical_issues(load_study(bare.store()));
  std::vector<std::string> rules;
  for (const Issue& issue : found.issues) {
    EXPECT_EQ(issue.rule, "missing_data");
    rules.push_back(issue.where);
  }
  EXPECT_THAT(rules, ElementsAre("Math failure", "Memory paradox", "Slower than baseline",
                                 "Inconsistent benefits", "Improbable gain", "Constant answers",
                                 "Perplexity blow-up", "Impossible size", "Weights not quantized"));
}

// On one model gptq answers 20 rows more, on the other gsq.
TEST_F(RuleTest, InconsistentBenefitsNeedsWinsOnBothSides) {
  const std::string right = testing::eighty_right();
  std::vector<size_t> lost;
  for (size_t i = 0; i < 100; i += 10) lost.insert(lost.end(), {i, i + 1});
  save(testing::choice_cell(kGptq, testing::flipped(right, lost)));
  EXPECT_THAT(issues_of("inconsistent_benefits"), IsEmpty());

  study_.add_healthy_model("beta");
  EXPECT_THAT(issues_of("inconsistent_benefits"), IsEmpty());
  save(testing::choice_cell(testing::quantized("beta", "gsq", 64), testing::flipped(right, lost)));
  const Issue issue = only_issue("inconsistent_benefits");
  EXPECT_EQ(issue.where, "gptq against gsq");
  EXPECT_EQ(issue.finding,
            "gptq wins 1 and gsq wins 1 of 6 paired comparisons: no method is the better one everywhere");
  EXPECT_EQ(issue.evidence.at(0).cell, "alpha boolq at 4 bits, g64");
  EXPECT_THAT(issue.evidence.at(0).figure, HasSubstr("gsq wins; gsq − gptq: +"));
  EXPECT_THAT(issue.evidence.at(1).figure, HasSubstr("gptq wins; gsq − gptq: −"));
}

TEST_F(RuleTest, ImprobableGainIsNamedWithItsFlips) {
  const std::string right = testing::eighty_right();
  save(testing::choice_cell(kGptq, testing::flipped(right, {8, 9, 18, 19, 28, 29, 38, 39, 48, 49, 58, 59})));
  const Issue issue = only_issue("improbable_gain");
  EXPECT_EQ(issue.where, "alpha boolq");
  EXPECT_THAT(issue.evidence.at(0).figure, HasSubstr("0 answers right→wrong, 12 wrong→right; p < 0.001, "));
  EXPECT_THAT(issue.evidence.at(0).figure, HasSubstr("after Holm's correction for 6 comparisons"));
  EXPECT_EQ(issue.evidence.at(1).figure, "quantized: answers vary; baseline: answers vary");
}

TEST_F(RuleTest, AGainThatMayBeChanceIsNone) {
  save(testing::choice_cell(kGptq, testing::flipped(testing::eighty_right(), {8, 9, 0})));
  EXPECT_THAT(find().issues, IsEmpty());
}

TEST_F(RuleTest, ConstantAnswersAtNinetyEightPercent) {
  std::string yes;
  for (int i = 0; i < 100; ++i) yes += i % 2 == 0 ? '1' : '0';
  save(testing::choice_cell(kGptq, testing::flipped(yes, {1, 3, 5})));
  EXPECT_THAT(issues_of("constant_answers"), IsEmpty());
  save(testing::choice_cell(kGptq, testing::flipped(yes, {1, 3})));
  const auto issues = issues_of("constant_answers");
  ASSERT_EQ(issues.size(), 1u);
  EXPECT_EQ(issues[0].evidence.at(0).figure, "'yes' on 98.0 % of 100 rows, which earns 50.0 %");
  EXPECT_THAT(issues[0].cause, HasSubstr("quantization collapsed"));
}

TEST_F(RuleTest, ConstantNoOverAllPassagesIsSeenDespiteABalancedSample) {
  Cell cell = testing::choice_cell(kBase, testing::eighty_right(), "msmarco");
  cell.result->checks = {{"answer_share_no_all", 0.99}, {"always_no_accuracy", 0.9}};
  save(cell);
  EXPECT_EQ(only_issue("constant_answers").evidence.at(0).figure,
            "'No' on 99.0 % of all passages, where always No earns 90.0 %");
}

TEST_F(RuleTest, PerplexityBlowUpAboveOneAndAHalf) {
  save(testing::perplexity_cell(kGptq, 1.5 + std::log(1.49)));
  EXPECT_THAT(issues_of("perplexity_blow_up"), IsEmpty());
  save(testing::perplexity_cell(kGptq, 1.5 + std::log(1.6)));
  const auto issues = issues_of("perplexity_blow_up");
  ASSERT_EQ(issues.size(), 1u);
  EXPECT_THAT(issues[0].finding, HasSubstr("gptq g64, wikitext: ppl 7.171, baseline 4.482: ×1.60"));
}

TEST_F(RuleTest, ImpossibleSize) {
  VariantFacts facts = testing::facts_of(kGptq);
  facts.file_bytes = 3 * kMegabyte;  // 2.4 bits for 10 M parameters
  study_.store().set_facts(kGptq, facts);
  EXPECT_THAT(only_issue("impossible_size").finding,
              HasSubstr("gptq g64: 2.40 bits per weight in the file, 4.40 stated, 4 bits claimed"));
  facts = testing::facts_of(kGptq);
  facts.bits_per_weight = 3.9;
  study_.store().set_facts(kGptq, facts);
  EXPECT_THAT(only_issue("impossible_size").finding,
              HasSubstr("4.40 bits per weight in the file, 3.90 stated"));
}

// The outputs of the baseline under another name.
TEST_F(RuleTest, WeightsNotQuantizedWhenOutputsAreEqualBitForBit) {
  for (const Cell& base : study_.store().cells(true)) {
    if (!base.variant.is_baseline() || !base.result) continue;
    Cell copy = base;
    copy.variant = kGptq;
    copy.memory->peak_rss = 44 * kMegabyte;
    save(copy);
  }
  const Issue issue = only_issue("weights_not_quantized");
  EXPECT_EQ(issue.finding, "gptq g64: all 220 outputs of 3 tasks equal to the baseline's");

  // One log-likelihood that differs in its last bit clears it.
  Cell cell = testing::choice_cell(kBase, testing::eighty_right());
  cell.variant = kGptq;
  cell.memory->peak_rss = 44 * kMegabyte;
  cell.result->samples[99].detail["loglik_yes"] = std::nextafter(-1.25, 0);
  save(cell);
  EXPECT_THAT(find().issues, IsEmpty());
}

TEST_F(RuleTest, EqualAnswersWithoutLogLikelihoodsProveNothing) {
  SyntheticStudy texts;
  for (const Variant& v : {kBase, kGptq}) {
    Cell cell = testing::choice_cell(v, testing::eighty_right());
    for (Sample& s : cell.result->samples) s.detail = nullptr;
    texts.store().save(cell);
  }
  const CriticalIssues found = find_critical_issues(load_study(texts.store()));
  const auto check = std::find_if(found.checks.begin(), found.checks.end(),
                                  [](const RuleCheck& c) { return c.rule == "weights_not_quantized"; });
  EXPECT_EQ(check->found, 0u);
  EXPECT_THAT(check->not_judged, Not(IsEmpty()));
}

TEST_F(RuleTest, WeightsNotQuantizedWhenTheHashesAgree) {
  VariantFacts facts = testing::facts_of(kGptq);
  facts.sha256 = testing::facts_of(kBase).sha256;
  study_.store().set_facts(kGptq, facts);
  EXPECT_EQ(only_issue("weights_not_quantized").finding,
            "gptq g64: SHA-256 of the weights equal to the baseline's");
}

}  // namespace
}  // namespace nibble::report
