#include "study/merge.h"

#include <algorithm>

#include <gmock/gmock.h>

#include "base/error.h"
#include "study/runner_fixture.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class MergeTest : public testing::RunnerTest {
 protected:
  void SetUp() override {
    RunnerTest::SetUp();
    plan_.models = {"tiny", "small"};
    plan_.methods = {{"gptq", 4, {16}}, {"rtn", 4, {64}}};
    ASSERT_TRUE(run("whole").complete());
    for (size_t i = 1; i <= 2; ++i) {
      options_.shard = {i, 2};
      ASSERT_TRUE(run(i == 1 ? "one" : "two").complete());
    }
    options_.shard = {};
  }
  MergeOutcome merge(const std::vector<const char*>& names, const char* out = "merged") {
    std::vector<fs::path> sources;
    for (const char* name : names) sources.push_back(dir_ / name);
    return merge_studies(sources, dir_ / out);
  }
  std::string refusal(const std::vector<const char*>& names, const char* out = "merged") {
    try {
      merge(names, out);
    } catch (const Error& error) {
      return error.what();
    }
    return "merged";
  }
};

TEST_F(MergeTest, ShardsTogetherAreTheWholeStudy) {
  const MergeOutcome outcome = merge({"one", "two"});
  EXPECT_EQ(outcome.cells, 18u);
  EXPECT_EQ(outcome.done, 18u);
  EXPECT_EQ(outcome.taken, 18u);
  EXPECT_EQ(content("merged"), content("whole"));
  EXPECT_EQ(read_file(dir_ / "merged" / "study.toml"), read_file(dir_ / "whole" / "study.toml"));
  // Again, and with parts that say the same: nothing changes.
  EXPECT_EQ(merge({"two", "one", "whole"}).taken, 0u);
  EXPECT_EQ(content("merged"), content("whole"));
}

TEST_F(MergeTest, PartByPartAndWhatIsMissingStaysPlanned) {
  EXPECT_EQ(merge({"two"}).done, 9u);
  size_t planned = 0;
  for (const Cell& cell : cells("merged")) planned += cell.status == CellStatus::kPlanned;
  EXPECT_EQ(planned, 9u);
  EXPECT_EQ(merge({"one"}).taken, 9u);
  EXPECT_EQ(content("merged"), content("whole"));
}

TEST_F(MergeTest, AnalysesComeAlongAndNewerOnesStay) {
  Store::open(dir_ / "two" / "results.db").set_analysis("small", {{"from", "two"}});
  merge({"one", "two"});
  EXPECT_EQ(Store::open(dir_ / "merged" / "results.db", true).analysis("small"), (Json{{"from", "two"}}));
  EXPECT_TRUE(Store::open(dir_ / "merged" / "results.db", true).analysis("tiny").is_null());
  Store::open(dir_ / "one" / "results.db").set_analysis("tiny", {{"from", "one"}});
  Store::open(dir_ / "merged" / "results.db").set_analysis("small", {{"from", "here"}});
  EXPECT_EQ(merge({"one", "two"}).taken, 0u);
  EXPECT_EQ(Store::open(dir_ / "merged" / "results.db", true).analysis("tiny"), (Json{{"from", "one"}}));
  EXPECT_EQ(Store::open(dir_ / "merged" / "results.db", true).analysis("small"), (Json{{"from", "here"}}));
}

TEST_F(MergeTest, FailedCellsComeAlongUntilSomethingBetterDoes) {
  act("eval.tiny.boolq", "fail");
  options_.shard = {1, 2};
  run("unlucky");
  behave();
  EXPECT_EQ(merge({"unlucky", "two"}).failed, 1u);
  EXPECT_EQ(cells("merged")[0].reason, "tiny: no luck");
  EXPECT_EQ(merge({"one"}).failed, 0u);
  EXPECT_EQ(content("merged"), content("whole"));
}

TEST_F(MergeTest, WhatDoesNotCompareIsRefusedBeforeAnythingIsWritten) {
  const auto with_meta = [&](const char* key, const char* value) {
    fs::remove_all(dir_ / "other");
    fs::copy(dir_ / "two", dir_ / "other", fs::copy_options::recursive);
    Store::open(dir_ / "other" / "results.db").set_meta(key, value);
    return refusal({"one", "other"});
  };
  EXPECT_THAT(with_meta("cpu", "Another CPU"),
              AllOf(HasSubstr("cpu Another CPU"), HasSubstr("would not compare")));
  EXPECT_THAT(with_meta("isa", "other"), HasSubstr("isa other"));
  EXPECT_THAT(with_meta("version", "0.0.9"), HasSubstr("version 0.0.9"));
  EXPECT_THAT(with_meta("threads", "9"), HasSubstr("threads 9"));
  plan_.limit = 8;
  run("limit");
  EXPECT_THAT(refusal({"one", "limit"}), HasSubstr("limit = 7, not 8"));
  plan_.limit = 7;
  plan_.tasks = {"boolq"};
  run("tasks");
  EXPECT_THAT(refusal({"one", "tasks"}), HasSubstr("plans with other models"));
  EXPECT_THAT(refusal({"one", "absent"}), HasSubstr("absent/results.db: not there"));
  EXPECT_FALSE(fs::exists(dir_ / "merged"));
  EXPECT_THAT(refusal({"one"}, "one"), HasSubstr("--out itself"));
}

TEST_F(MergeTest, CellMeasuredTwiceMustAgree) {
  fs::copy(dir_ / "one", dir_ / "other", fs::copy_options::recursive);
  {
    Store store = Store::open(dir_ / "other" / "results.db");
    auto all = store.cells(true);
    const auto done = std::find_if(all.begin(), all.end(),
                                   [](const Cell& c) { return c.status == CellStatus::kDone && c.result; });
    done->result->metrics["accuracy"].value += 0.01;
    store.save(*done);
  }
  EXPECT_THAT(refusal({"one", "other"}), HasSubstr("with different scores"));
  std::ofstream(control_ / "weights") << "77";
  options_.shard = {2, 2};
  run("weights");
  EXPECT_THAT(refusal({"two", "weights"}), HasSubstr("other weights"));
}

TEST_F(MergeTest, DistanceMeasuredTwiceMustAgree) {
  plan_.tasks = {"wikitext"};
  options_.shard = {};
  run("first");
  fs::copy(dir_ / "first", dir_ / "second", fs::copy_options::recursive);
  EXPECT_EQ(merge({"first", "second"}).failed, 0u);
  EXPECT_EQ(content("merged"), content("first"));
  {
    Store store = Store::open(dir_ / "second" / "results.db");
    auto all = store.cells(true);
    const auto kl = std::find_if(all.begin(), all.end(), [](const Cell& c) { return c.task == kDistance; });
    ASSERT_NE(kl, all.end());
    kl->distance["kl"]["mean"] = 7;
    store.save(*kl);
  }
  EXPECT_THAT(refusal({"first", "second"}, "other"), HasSubstr("with different distances"));
}

}  // namespace
}  // namespace nibble
