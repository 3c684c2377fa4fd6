// Databases whose answer is known before it is asked.
#include "report/recommend.h"

#include <algorithm>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using testing::bench_cell;
using testing::choice_cell;
using ::testing::ElementsAre;
using testing::facts_of;
using testing::flipped;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kMegabyte;
using testing::perplexity_cell;

// `right` of 400 rows are right, the first ones; spread over both gold answers.
std::string pattern(int right) {
  return std::string(static_cast<size_t>(right), '1') + std::string(static_cast<size_t>(400 - right), '0');
}

class RecommendTest : public ::testing::Test {
 protected:
  // A variant with a file, a peak and a decode speed, in MB and tokens/s.
  void add(const Variant& v, double size_mb, double peak_mb, double decode, double sd = 0.1) {
    VariantFacts facts = facts_of(v.is_baseline() ? v : Variant{v.model, v.method, v.bits, 64});
    facts.sha256 = v.name();
    facts.file_bytes = static_cast<uint64_t>(size_mb * kMegabyte);
    study_.store().set_facts(v, facts);
    peak_ = static_cast<uint64_t>(peak_mb * kMegabyte);
    save(bench_cell(v, 400, decode, sd));
  }
  // Cells take the peak of the variant added last.
  void save(Cell cell) {
    if (cell.memory) cell.memory->peak_rss = peak_;
    study_.store().save(cell);
  }
  // 80 % right; the baseline, a large and a small quantized one with the given scores.
  void three(const std::string& large, const std::string& small) {
    add(base_, 20, 60, 20);
    save(choice_cell(base_, pattern(320)));
    add(g16_, 7, 40, 40);
    save(choice_cell(g16_, large));
    add(g64_, 5, 35, 45);
    save(choice_cell(g64_, small));
  }
  const Recommendation& ask(const Specification& spec = {}) {
    view_ = load_study(study_.store());
    answer_ = recommend(view_, find_critical_issues(view_), spec);
    return answer_;
  }
  std::string chosen() const { return answer_.choice ? label(*answer_.choice) : "none"; }
  std::string label(size_t i) const { return answer_.candidates[i].label(); }
  std::vector<std::string> labels(const std::vector<size_t>& which) const {
    std::vector<std::string> names;
    for (const size_t i : which) names.push_back(label(i));
    return names;
  }
  std::string reason(const std::string& name) const {
    for (size_t i = 0; i < answer_.candidates.size(); ++i) {
      if (label(i) == name) return why_not(answer_, i);
    }
    return "no such candidate";
  }
  std::string verdict() const { return to_json(answer_)["verdict"]; }

  const Variant base_ = testing::baseline("alpha"), g16_ = testing::quantized("alpha", "gptq", 16),
                g64_ = testing::quantized("alpha", "gptq", 64);
  testing::SyntheticStudy study_;
  StudyView view_;
  Recommendation answer_;
  uint64_t peak_ = 0;
};

TEST_F(RecommendTest, SmallestOfEqualsAndClearWhereTheRowsShowThatNothingIsLost) {
  three(pattern(320), pattern(320));
  Specification spec;
  spec.tolerance = 0.05;  // 4 points; 400 rows without a flip could have shown 0.7
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_THAT(labels(answer_.tied), ElementsAre("alpha baseline", "alpha gptq g16"));
  EXPECT_THAT(answer_.rivals, IsEmpty());
  EXPECT_EQ(verdict(), "clear");
  EXPECT_EQ(reason("alpha gptq g16"), "as good, but 40.0 % larger");
  EXPECT_EQ(reason("alpha baseline"), "as good, but 4.0 times the size");
}

TEST_F(RecommendTest, ATieIsCalledOne) {
  // 12 lost and 8 won of 400: one point, p = 0.5.
  std::string small = pattern(320);
  for (size_t i = 0; i < 12; ++i) small = flipped(small, {i});
  for (size_t i = 0; i < 8; ++i) small = flipped(small, {390 + i});
  three(pattern(320), small);
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_EQ(verdict(), "tie");
  EXPECT_THAT(labels(answer_.rivals), ElementsAre("alpha baseline", "alpha gptq g16"));
  EXPECT_GT(answer_.unseen_accuracy, 0.02);
  EXPECT_LT(answer_.unseen_accuracy, 0.05);
  EXPECT_THAT(
      render_recommendation(answer_),
      ::testing::StartsWith("Deploy alpha gptq g64. It ties with alpha baseline and alpha gptq g16.\n"));
}

TEST_F(RecommendTest, MeasurablyWorseIsNotTakenHoweverSmall) {
  three(pattern(320), pattern(280));  // 40 lost, none won
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_THAT(reason("alpha gptq g64"), HasSubstr("worse on boolq: −10.0 ["));
  // Unless the specification says that this much may be lost.
  Specification spec;
  spec.min_accuracy_kept = 0.80;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_EQ(verdict(), "clear");
  // A limit within the interval of what was kept is met narrowly, and then the other one would be chosen.
  spec.min_accuracy_kept = 0.87;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_EQ(verdict(), "tie");
  EXPECT_THAT(labels(answer_.overturning), ElementsAre("alpha gptq g16"));
  spec.min_accuracy_kept = 0.88;  // fails narrowly: let in, it would be chosen
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_EQ(verdict(), "tie");
  EXPECT_THAT(labels(answer_.overturning), ElementsAre("alpha gptq g64"));
  EXPECT_THAT(reason("alpha gptq g64"),
              HasSubstr("accuracy kept on boolq 87.5 % (within its uncertainty), asked at least 88.0 %"));
  spec.min_accuracy_kept = 0.95;  // fails for sure
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_EQ(verdict(), "clear");
}

TEST_F(RecommendTest, WithoutCompressionWorthItTheBaseline) {
  three(pattern(280), pattern(260));
  ask();
  EXPECT_EQ(chosen(), "alpha baseline");
  EXPECT_EQ(label(answer_.best_quantized.value()), "alpha gptq g16");
  EXPECT_THAT(render_recommendation(answer_), HasSubstr("Deploy alpha baseline, not quantized."));
}

TEST_F(RecommendTest, EveryLimitExcludesWhatFailsIt) {
  three(pattern(320), pattern(280));
  for (const Variant& v : {base_, g16_, g64_}) {
    Cell cell = choice_cell(v, pattern(v == g64_ ? 280 : 320));
    cell.result->latency_ms.p95 = v == base_ ? 30 : v == g16_ ? 20 : 10;
    cell.memory->peak_rss = (v == base_ ? 60 : v == g16_ ? 40 : 35) * kMegabyte;
    study_.store().save(cell);
  }
  const auto with = [&](auto set) {
    Specification spec;
    set(spec);
    ask(spec);
    return chosen();
  };
  EXPECT_EQ(with([](Specification& s) { s.max_size = 6e6; }), "alpha gptq g64");
  EXPECT_EQ(reason("alpha gptq g16"), "size 7 MB, asked at most 6 MB");
  EXPECT_EQ(with([](Specification& s) { s.max_size = 7e6; }), "alpha gptq g16");  // the limit itself is met
  EXPECT_EQ(with([](Specification& s) { s.max_memory = 36e6; }), "alpha gptq g64");
  EXPECT_EQ(reason("alpha baseline"), "peak memory 60 MB, asked at most 36 MB");
  EXPECT_EQ(with([](Specification& s) { s.min_throughput = 42; }), "alpha gptq g64");
  EXPECT_EQ(reason("alpha gptq g16"), "decode speed 40.0 tokens/s, asked at least 42.0 tokens/s");
  EXPECT_EQ(with([](Specification& s) { s.max_latency = 15; }), "alpha gptq g64");
  EXPECT_EQ(reason("alpha baseline"), "latency on boolq 30.0 ms, asked at most 15.0 ms");
  EXPECT_EQ(with([](Specification& s) { s.min_accuracy = 0.79; }), "alpha gptq g16");
  EXPECT_THAT(reason("alpha gptq g64"), HasSubstr("accuracy on boolq 70.0 %, asked at least 79.0 %"));
  EXPECT_EQ(with([](Specification& s) { s.min_accuracy_kept = 0.98; }), "alpha gptq g16");
  EXPECT_EQ(with([](Specification& s) {
              s.min_throughput = 42;
              s.min_accuracy_kept = 0.98;
            }),
            "none");
}

TEST_F(RecommendTest, NearestWhenNothingFits) {
  three(pattern(320), pattern(280));
  Specification spec;
  spec.max_size = 6e6;
  spec.min_accuracy_kept = 0.98;
  ask(spec);
  EXPECT_EQ(verdict(), "none");
  // 87.5 % of 98 % lacks 10.7 %; 7 MB exceed 6 MB by 16.7 %.
  EXPECT_EQ(label(answer_.nearest.value()), "alpha gptq g64");
  EXPECT_THAT(render_recommendation(answer_),
              ::testing::StartsWith("No configuration meets the specification. Nearest: alpha gptq g64.\n"));
  spec.max_size = 6.9e6;
  ask(spec);
  EXPECT_EQ(label(answer_.nearest.value()), "alpha gptq g16");
}

TEST_F(RecommendTest, WhatWasNotMeasuredIsSaidAndNeverAssumed) {
  three(pattern(320), pattern(320));
  Cell failed;
  failed.variant = g64_;
  failed.status = CellStatus::kFailed;
  failed.reason = "killed by signal 9";
  failed.task = "bench";
  study_.store().save(failed);
  Specification spec;
  spec.min_throughput = 1;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_EQ(reason("alpha gptq g64"), "decode speed missing (bench: killed by signal 9)");
  ask();  // nothing asked of speed: it may be chosen
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_THAT(render_recommendation(answer_), HasSubstr("missing (bench: killed by signal 9)"));
  failed.task = "boolq";
  study_.store().save(failed);
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_EQ(reason("alpha gptq g64"), "score on boolq missing (killed by signal 9)");
  // Without the baseline's score nobody knows what was kept.
  failed.variant = base_;
  study_.store().save(failed);
  Specification kept;
  kept.min_accuracy_kept = 0.5;
  ask(kept);
  EXPECT_EQ(verdict(), "none");
  EXPECT_FALSE(answer_.nearest);
  EXPECT_THAT(render_recommendation(answer_), HasSubstr("accuracy kept on boolq missing"));
}

TEST_F(RecommendTest, PerplexityDecidesWhereAnswersDoNot) {
  three(pattern(320), pattern(320));
  save(perplexity_cell(base_, 1.5));
  save(perplexity_cell(g16_, 1.505, 0.001));  // ×1.005: measurable, within the tolerance
  save(perplexity_cell(g64_, 1.6, 0.001));    // ×1.105
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g16");
  EXPECT_THAT(reason("alpha gptq g64"), HasSubstr("worse on wikitext: ×1."));
  Specification spec;
  spec.tasks = {"boolq"};
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  spec.tasks = {};
  spec.max_perplexity_ratio = 1.2;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  spec.max_perplexity_ratio = 1.1;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g16");
}

TEST_F(RecommendTest, GainOverTheBaselineCountsForNothing) {
  three(pattern(380), pattern(320));  // 15 points above its own baseline
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g64");
}

TEST_F(RecommendTest, BetterModelWinsAcrossModels) {
  three(pattern(320), pattern(320));
  const Variant beta = testing::baseline("beta"), quantized = testing::quantized("beta", "gsq", 64);
  add(beta, 40, 90, 10);
  save(choice_cell(beta, pattern(380)));
  add(quantized, 10, 50, 30);
  save(choice_cell(quantized, pattern(378)));
  ask();
  EXPECT_EQ(chosen(), "beta gsq g64");
  EXPECT_THAT(reason("alpha gptq g64"), HasSubstr("worse on boolq"));
  Specification spec;
  spec.max_memory = 45e6;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  spec = {};
  spec.models = {"alpha"};
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_EQ(answer_.candidates.size(), 3u);
}

TEST_F(RecommendTest, TradeBetweenTasksIsSaid) {
  three(pattern(320), pattern(320));
  save(choice_cell(base_, pattern(320), "msmarco"));
  save(choice_cell(g16_, pattern(200), "msmarco"));
  save(choice_cell(g16_, pattern(320), "boolq"));
  save(choice_cell(g64_, pattern(320), "msmarco"));
  save(choice_cell(g64_, pattern(240), "boolq"));
  Specification spec;
  spec.max_size = 10e6;  // not the baseline
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");  // loses 80 answers, the other 120
  EXPECT_THAT(reason("alpha gptq g16"),
              ::testing::AllOf(HasSubstr("worse on msmarco"), HasSubstr("better on boolq")));
  EXPECT_THAT(render_recommendation(answer_), HasSubstr("--task says what counts"));
  spec.tasks = {"boolq"};
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g16");
}

TEST_F(RecommendTest, PreferenceDecidesBetweenEquals) {
  three(pattern(320), pattern(320));
  const Variant gsq = testing::quantized("alpha", "gsq", 64);
  add(gsq, 5.01, 30, 60, 5);
  save(choice_cell(gsq, pattern(320)));
  Specification spec;
  spec.tolerance = 0.05;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");  // the first of two of the same size
  EXPECT_EQ(verdict(), "tie");
  EXPECT_THAT(labels(answer_.equal), ElementsAre("alpha gsq g64"));
  EXPECT_EQ(reason("alpha gsq g64"), "as good, and the same in size");
  spec.prefer = Prefer::kMemory;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gsq g64");
  EXPECT_EQ(verdict(), "clear");
  spec.prefer = Prefer::kSpeed;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gsq g64");
  EXPECT_EQ(reason("alpha gptq g64"), "as good, 25.0 % slower");
  // 60 ± 20 and 45 ± 0.1 cannot be told apart.
  add(gsq, 5.01, 30, 60, 20);
  ask(spec);
  EXPECT_EQ(verdict(), "tie");
}

TEST_F(RecommendTest, HolmKeepsChanceDifferencesFromDeciding) {
  // 14 lost, 4 won of 400: p = 0.031, interval below 0; one of eight comparisons, so no finding.
  three(pattern(320), pattern(320));
  std::string worse = pattern(320);
  for (size_t i = 0; i < 14; ++i) worse = flipped(worse, {i});
  for (size_t i = 0; i < 4; ++i) worse = flipped(worse, {390 + i});
  for (const int g : {32, 128, 256, 512, 1024, 2048}) {
    const Variant v = testing::quantized("alpha", "gptq", g);
    add(v, g == 32 ? 4 : 8, 40, 40);
    save(choice_cell(v, g == 32 ? worse : pattern(320)));
  }
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g32");
  EXPECT_EQ(verdict(), "tie");
  // As the only comparison it is a finding.
  Specification spec;
  spec.tasks = {"boolq"};
  answer_.candidates.clear();
  const StudyView view = load_study(study_.store());
  const auto all = candidates_of(view, spec, {"boolq"});
  const auto by_label = [&](const char* name) {
    return &*std::find_if(all.begin(), all.end(), [&](const Candidate& c) { return c.label() == name; });
  };
  Comparisons comparisons;
  const auto against =
      compare_with_leader({by_label("alpha baseline"), by_label("alpha gptq g32")}, 0, spec, comparisons);
  EXPECT_EQ(against[1].overall(), Standing::kWorse);
  EXPECT_NEAR(against[1].tasks[0].p_holm, 0.0309, 1e-4);  // 2·P(X ≤ 4), X ~ Binomial(18, ½)
}

TEST_F(RecommendTest, ParetoFront) {
  three(pattern(320), pattern(280));
  const Variant dominated = testing::quantized("alpha", "gsq", 16);
  add(dominated, 8, 41, 39);
  save(choice_cell(dominated, pattern(310)));
  ask();
  std::vector<std::string> front;
  for (const Candidate& c : answer_.candidates) {
    if (c.on_front) front.push_back(c.label());
  }
  EXPECT_THAT(front,
              ElementsAre("alpha gptq g16", "alpha gptq g64"));  // the baseline is only larger and slower
}

TEST_F(RecommendTest, PredictionForAnotherMachine) {
  three(pattern(320), pattern(320));
  // 40 tokens/s here: 25 ms, of which 20 ms read 200 MB at 10 GB/s; bandwidth fraction 0.8.
  const auto with_bandwidth = [&](const Variant& v, double decode, double fraction) {
    Cell cell = bench_cell(v, 400, decode);
    cell.bench[1]["bandwidth_fraction"] = fraction;
    cell.bench[1]["bandwidth_bytes_per_s"] = 10e9;
    cell.memory->peak_rss = (v == g16_ ? 40 : 35) * kMegabyte;
    study_.store().save(cell);
  };
  with_bandwidth(g16_, 40, 0.8);
  with_bandwidth(g64_, 50, 1.1);
  Specification spec;
  spec.bandwidth = 5e9;
  ask(spec);
  const auto decode = [&](const std::string& name) -> const Figure& {
    for (const Candidate& c : answer_.candidates) {
      if (c.label() == name) return c.decode;
    }
    throw std::runtime_error(name);
  };
  // 200 MB at 5 GB/s are 40 ms, and 5 ms beside; at the other extreme all of 25 ms doubles.
  EXPECT_NEAR(decode("alpha gptq g16").value, 1 / 0.045, 1e-9);
  EXPECT_NEAR(decode("alpha gptq g16").low, 20, 1e-9);
  EXPECT_NEAR(decode("alpha gptq g16").high, 1 / 0.045, 1e-9);
  EXPECT_TRUE(decode("alpha gptq g16").predicted);
  // More than the measured bandwidth leaves nothing beside reading: 220 MB.
  EXPECT_NEAR(decode("alpha gptq g64").value, 5e9 / 220e6, 1e-9);
  EXPECT_THAT(decode("alpha baseline").missing, HasSubstr("could not tell the bytes"));
  EXPECT_THAT(render_recommendation(answer_), HasSubstr("predicted: "));
  EXPECT_THAT(render_recommendation(answer_),
              HasSubstr("For another machine: size is exact; memory and speed"));
  spec.memory = 38e6;
  spec.min_throughput = 10;
  ask(spec);
  EXPECT_EQ(chosen(), "alpha gptq g64");
  EXPECT_THAT(reason("alpha gptq g16"), HasSubstr("peak memory there 40 MB predicted"));
  EXPECT_THAT(reason("alpha baseline"), HasSubstr("decode speed missing"));
  spec.max_latency = 10;
  EXPECT_THROW(ask(spec), UsageError);
  spec.max_latency.reset();
  spec.bandwidth.reset();
  EXPECT_THROW(ask(spec), UsageError);  // throughput of a machine of unknown bandwidth
}

TEST_F(RecommendTest, WarnsOfCriticalIssuesOfTheChoice) {
  three(pattern(320), pattern(320));
  Cell paradox = choice_cell(g64_, pattern(320));
  paradox.memory->peak_rss = 70 * kMegabyte;
  study_.store().save(paradox);
  ask();
  EXPECT_EQ(chosen(), "alpha gptq g64");
  ASSERT_EQ(answer_.warnings.size(), 1u);
  EXPECT_EQ(answer_.warnings[0].rule, "memory_paradox");
}

TEST_F(RecommendTest, WrongUsageIsNamed) {
  three(pattern(320), pattern(320));
  const auto message = [&](auto set) {
    Specification spec;
    set(spec);
    try {
      ask(spec);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(message([](Specification& s) { s.tasks = {"gsm8k"}; }), HasSubstr("it has boolq"));
  EXPECT_THAT(message([](Specification& s) { s.models = {"gamma"}; }), HasSubstr("it has alpha"));
  EXPECT_THAT(message([](Specification& s) { s.max_perplexity_ratio = 1.1; }),
              HasSubstr("use --min-accuracy-kept"));
  EXPECT_THAT(message([](Specification& s) { s.max_perplexity_ratio = 0.9; }), HasSubstr("below 1"));
}

TEST_F(RecommendTest, NothingStored) { EXPECT_THROW(ask(), Error); }

TEST(Specification, ValuesAsPeopleWriteThem) {
  EXPECT_EQ(parse_bytes("--max-memory", "600MB"), 600e6);
  EXPECT_EQ(parse_bytes("--max-memory", "1.5 gb"), 1.5e9);
  EXPECT_EQ(parse_bytes("--max-memory", "2GiB"), 2147483648.0);
  EXPECT_EQ(parse_bytes("--max-memory", "64000000"), 64e6);
  EXPECT_EQ(parse_bandwidth("--bandwidth", "50GB/s"), 50e9);
  EXPECT_EQ(parse_milliseconds("--max-latency", "1.5s"), 1500);
  EXPECT_EQ(parse_milliseconds("--max-latency", "200"), 200);
  EXPECT_DOUBLE_EQ(parse_share("--min-accuracy-kept", "98%"), 0.98);
  EXPECT_DOUBLE_EQ(parse_share("--min-accuracy-kept", "0.98"), 0.98);
  for (const char* wrong : {"", "MB", "-3MB", "0", "nan", "inf", "3 parsecs", "1e999", "5MB/s/s"})
    EXPECT_THROW(parse_bytes("--max-memory", wrong), UsageError) << wrong;
  EXPECT_THROW(parse_share("--min-accuracy-kept", "98"), UsageError);
  EXPECT_THROW(parse_prefer("--prefer", "cheap"), UsageError);
}

}  // namespace
}  // namespace nibble::report
