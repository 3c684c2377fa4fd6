#include "study/runner.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "study/runner_fixture.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::Recorder;
using testing::RunnerTest;
namespace fs = std::filesystem;

TEST_F(RunnerTest, WholeStudyInOrder) {
  const StudyOutcome outcome = run();
  EXPECT_TRUE(outcome.complete());
  EXPECT_EQ(outcome.cells, 6u);
  EXPECT_THAT(outcome.message, HasSubstr("all 6 cells done"));
  EXPECT_THAT(recorder_.started,
              ElementsAre("tiny baseline info", "tiny baseline boolq", "tiny baseline gsm8k",
                          "tiny baseline bench", "tiny gptq-4bit-g16 quantize", "tiny gptq-4bit-g16 boolq",
                          "tiny gptq-4bit-g16 gsm8k", "tiny gptq-4bit-g16 bench"));
  EXPECT_EQ(recorder_.cells, 6);
  EXPECT_THAT(recorder_.lines, ::testing::Contains("working on eval.tiny.boolq"));

  const Store store = Store::open(dir_ / "out" / "results.db", true);
  const Variant gptq{"tiny", "gptq", 4, 16};
  EXPECT_EQ(store.facts({"tiny", "baseline", 16, 0})->parameters, 1000u);
  EXPECT_EQ(store.facts(gptq)->file_bytes, 600u);
  EXPECT_EQ(store.facts(gptq)->quantize_seconds, 1.5);
  EXPECT_EQ(store.facts(gptq)->quantization_report["totals"]["bits_per_weight"], 4.625);
  EXPECT_EQ(store.meta("version"), "test");
  EXPECT_EQ(store.meta("threads"), "1");
  EXPECT_EQ(store.meta("study_toml"), read_file(dir_ / "out" / "study.toml"));
  const auto cells = store.cells(true);
  EXPECT_EQ(cells[0].result->metrics.at("accuracy").stderr_, 0.1);
  EXPECT_EQ(cells[0].result->samples.at(0).detail["loglik"][1], -2.5);
  EXPECT_EQ(cells[0].memory->peak_rss, 5u);
  EXPECT_GT(cells[0].seconds, 0);
  EXPECT_EQ(cells[2].task, "bench");
  EXPECT_EQ(cells[2].bench[0]["test"], "pp8");
  EXPECT_EQ(cells[2].memory->weights, 2u);
  EXPECT_THAT(read_file(dir_ / "out" / "logs" / "tiny.gptq-4bit-g16.boolq.log"),
              HasSubstr("working on eval."));
  EXPECT_FALSE(fs::exists(dir_ / "out" / "tmp"));
}

TEST_F(RunnerTest, CommandLinesSayThePlan) {
  std::ofstream(dir_ / "c4.txt") << "text";
  plan_.shots = 3;
  plan_.same_examples = true;
  plan_.seed = 11;
  plan_.data = dir_;
  plan_.symmetric = true;
  plan_.calibration = {dir_ / "c4.txt"};
  plan_.samples = 5;
  plan_.seqlen = 6;
  plan_.window = 64;
  plan_.dtype = "float32";
  plan_.kl_windows = 3;
  plan_.kl_window = 32;
  plan_.tasks = {"boolq", "gsm8k", "wikitext"};
  ASSERT_TRUE(run().complete());
  const auto all = calls();
  const std::string d = dir_.string(), tmp = d + "/out/tmp/";
  const std::string tail =
      " --seed 11 --threads 1 --json " + tmp + "result.json --log-samples " + tmp + "samples.jsonl";
  EXPECT_EQ(all[0], "info tiny --json " + tmp + "info.json");
  EXPECT_EQ(all[1], "eval tiny --tasks boolq --data " + d + " --limit 7 --dtype float32" + tail);
  EXPECT_EQ(all[2], "eval tiny --tasks gsm8k --data " + d +
                        " --limit 7 --shots 3 --same-examples --dtype float32" + tail);
  EXPECT_EQ(all[3],
            "eval tiny --tasks wikitext --data " + d + " --limit 7 --window 64 --dtype float32" + tail);
  EXPECT_EQ(all[4], "bench tiny -p 128 -n 32 -r 3 -t 1 -o json --dtype float32");
  EXPECT_EQ(all[5],
            "quantize tiny " + d + "/out/models/tiny.gptq-4bit-g16 --method gptq --bits 4 --group-size 16" +
                " --symmetric --calibration " + d + "/c4.txt --samples 5 --seqlen 6 --seed 11 --threads 1" +
                " --force --json " + tmp + "tiny.gptq-4bit-g16.json");
  EXPECT_EQ(all[9], "compare tiny " + d + "/out/models/tiny.gptq-4bit-g16 --data " + d +
                        " --windows 3 --window 32 --dtype float32 --threads 1 --json " + tmp + "result.json");
}

// What is computed is computed there, the distance too; `info` computes nothing.
TEST_F(RunnerTest, EveryCellRunsOnThePlansDevice) {
  plan_.device = "cuda";
  plan_.tasks = {"gsm8k", "wikitext"};
  ASSERT_TRUE(run().complete());
  const auto all = calls();
  EXPECT_EQ(all.size(), 9u);  // info, quantize, two tasks and bench of each, the distance
  for (const std::string& call : all) {
    if (call.starts_with("info ")) continue;
    EXPECT_THAT(call, HasSubstr(" --device cuda"));
  }
}

TEST_F(RunnerTest, WhatWasQuantizedBeforeIsMeasuredAsItIs) {
  plan_.methods = {};
  plan_.tasks = {"wikitext"};
  plan_.quantized = {{"q/of-tiny", "tiny", "awq", 4, 32}, {"q/alone", "", "gptq", 4, 64}};
  ASSERT_TRUE(run().complete());
  EXPECT_THAT(recorder_.started,
              ElementsAre("tiny baseline info", "tiny baseline wikitext", "tiny baseline bench",
                          "tiny awq-4bit-g32 (q/of-tiny) info", "tiny awq-4bit-g32 (q/of-tiny) wikitext",
                          "tiny awq-4bit-g32 (q/of-tiny) kl", "tiny awq-4bit-g32 (q/of-tiny) bench",
                          "q/alone gptq-4bit-g64 info", "q/alone gptq-4bit-g64 wikitext",
                          "q/alone gptq-4bit-g64 bench"));
  EXPECT_THAT(calls()[5], HasSubstr("compare tiny q/of-tiny "));
  EXPECT_EQ(Store::open(dir_ / "out" / "results.db", true).facts(plan_.quantized[0].variant())->file_bytes,
            2000u);
}

// Stored without the paths of this machine; a failure is one of its cell alone.
TEST_F(RunnerTest, DistanceOfEachQuantizedVariant) {
  plan_.tasks = {"wikitext"};
  act("compare.tiny", "half");
  EXPECT_EQ(run().failed, 1u);
  EXPECT_THAT(reasons()["tiny gptq-4bit-g16 kl"], HasSubstr("compare --json: not valid JSON"));
  behave();
  EXPECT_TRUE(run().complete());
  EXPECT_THAT(recorder_.started, ElementsAre("tiny gptq-4bit-g16 kl"));
  const Cell kl = cells()[3];
  EXPECT_EQ(kl.task, "kl");
  EXPECT_EQ(kl.distance["tokens"], 255);
  EXPECT_FALSE(kl.distance.contains("base"));
  EXPECT_FALSE(kl.result);
}

TEST_F(RunnerTest, SecondCallDoesNothingTwice) {
  run();
  const size_t before = calls().size();
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(calls().size(), before);
  EXPECT_THAT(recorder_.started, IsEmpty());
}

TEST_F(RunnerTest, FailuresAreStoredAndTheRestGoesOn) {
  act("eval.tiny.boolq", "fail");
  act("eval.tiny.gptq-4bit-g16.boolq", "crash");
  act("eval.tiny.gsm8k", "kill");
  act("eval.tiny.gptq-4bit-g16.gsm8k", "half");
  act("bench.tiny", "silent");
  act("bench.tiny.gptq-4bit-g16", "fail");
  const StudyOutcome outcome = run();
  EXPECT_EQ(outcome.done, 0u);
  EXPECT_EQ(outcome.failed, 6u);
  EXPECT_EQ(outcome.stop_signal, 0);
  EXPECT_THAT(outcome.message, HasSubstr("0 of 6 cells done, 6 failed"));
  auto reason = reasons();
  EXPECT_EQ(reason["tiny baseline boolq"], "tiny: no luck");
  EXPECT_THAT(reason["tiny gptq-4bit-g16 boolq"], HasSubstr("signal 11"));
  EXPECT_THAT(reason["tiny baseline gsm8k"], HasSubstr("signal 9"));
  EXPECT_THAT(reason["tiny gptq-4bit-g16 gsm8k"], HasSubstr("eval --json: not valid JSON"));
  EXPECT_THAT(reason["tiny baseline bench"], HasSubstr("bench -o json: not valid JSON"));
  EXPECT_EQ(recorder_.failed.size(), 6u);

  // Only these again, and no second quantization.
  behave();
  fs::remove(control_ / "calls");
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(calls().size(), 6u);
  for (const std::string& call : calls()) EXPECT_THAT(call, Not(HasSubstr("quantize ")));
  EXPECT_TRUE(run("undisturbed").complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

TEST_F(RunnerTest, ResultOfAnotherTaskOrNoneIsAFailure) {
  act("eval.tiny.boolq", "wrong");
  act("eval.tiny.gsm8k", "silent");
  run();
  EXPECT_THAT(reasons()["tiny baseline boolq"], HasSubstr("eval --json"));
  EXPECT_EQ(reasons()["tiny baseline gsm8k"], "eval --json: nothing was written");
}

TEST_F(RunnerTest, FailedQuantizationFailsItsCells) {
  act("quantize.tiny.gptq-4bit-g16", "fail");
  EXPECT_EQ(run().done, 3u);
  EXPECT_EQ(reasons().size(), 3u);
  for (const auto& [cell, reason] : reasons()) EXPECT_EQ(reason, "quantize: tiny: no luck");
  behave();
  act("info.tiny", "fail");
  EXPECT_TRUE(run().complete());  // the baseline's facts are there already
  EXPECT_EQ(run("fresh").failed, 3u);
}

TEST_F(RunnerTest, RemovedModelIsQuantizedAgainIfStillNeeded) {
  act("bench.tiny.gptq-4bit-g16", "fail");
  run();
  behave();
  fs::remove_all(dir_ / "out" / "models");
  EXPECT_TRUE(run().complete());
  EXPECT_THAT(recorder_.started, ElementsAre("tiny gptq-4bit-g16 quantize", "tiny gptq-4bit-g16 bench"));
}

TEST_F(RunnerTest, OtherWeightsThanThoseMeasuredAreRefused) {
  act("bench.tiny.gptq-4bit-g16", "fail");
  run();
  behave();
  fs::remove_all(dir_ / "out" / "models");
  std::ofstream(control_ / "weights") << "77";
  EXPECT_EQ(run().failed, 1u);
  EXPECT_THAT(reasons()["tiny gptq-4bit-g16 bench"],
              AllOf(HasSubstr("other weights (77)"), HasSubstr("--out")));
}

TEST_F(RunnerTest, FullDiskEndsTheStudyAndCanGoOn) {
  act("eval.tiny.gsm8k", "full");
  try {
    run();
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("the disk is full"), HasSubstr("No space left on device")));
  }
  EXPECT_EQ(calls().size(), 3u);
  behave();
  EXPECT_TRUE(run().complete());
}

TEST_F(RunnerTest, MoreCellsAreAddedOtherOptionsRefused) {
  run();
  plan_.methods.push_back({"rtn", 4, {0}});
  plan_.tasks.push_back("wikitext");
  fs::remove(control_ / "calls");
  EXPECT_TRUE(run().complete());
  EXPECT_THAT(recorder_.started,
              ElementsAre("tiny baseline wikitext", "tiny gptq-4bit-g16 wikitext", "tiny gptq-4bit-g16 kl",
                          "tiny rtn-4bit-row quantize", "tiny rtn-4bit-row boolq", "tiny rtn-4bit-row gsm8k",
                          "tiny rtn-4bit-row wikitext", "tiny rtn-4bit-row kl", "tiny rtn-4bit-row bench"));
  plan_.limit = 8;
  const std::string toml = read_file(dir_ / "out" / "study.toml");
  try {
    run();
    FAIL() << "took another limit";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("limit = 7, not 8"), HasSubstr("another --out")));
  }
  EXPECT_EQ(read_file(dir_ / "out" / "study.toml"), toml);
}

TEST_F(RunnerTest, TimeLeftIsGuessedFromWhatIsDone) {
  plan_.models = {"tiny", "small"};
  run();
  EXPECT_FALSE(recorder_.steps[0].seconds_left);
  EXPECT_FALSE(recorder_.steps[1].seconds_left);
  ASSERT_TRUE(recorder_.steps[2].seconds_left);
  EXPECT_GT(*recorder_.steps[2].seconds_left, *recorder_.steps.back().seconds_left);
  EXPECT_EQ(recorder_.steps.back().cell, 12u);
  EXPECT_EQ(recorder_.steps.back().cells, 12u);
}

TEST_F(RunnerTest, InterruptStopsAfterTheChildAndResumes) {
  run("undisturbed");
  for (const char* key : {"eval.tiny.gsm8k", "quantize.tiny.gptq-4bit-g16"}) {
    act(key, "hang");
    fs::remove(control_ / "started");
    std::thread later([&] {
      EXPECT_TRUE(wait_for(control_ / "started"));
      ::kill(::getpid(), SIGINT);
    });
    const StudyOutcome outcome = run();
    later.join();
    EXPECT_EQ(outcome.stop_signal, SIGINT);
    EXPECT_FALSE(outcome.complete());
    EXPECT_EQ(outcome.failed, 0u);
    EXPECT_THAT(outcome.message, HasSubstr("the same command goes on from here"));
    behave();
  }
  EXPECT_EQ(cells()[2].status, CellStatus::kDone);
  EXPECT_EQ(cells()[3].status, CellStatus::kPlanned);
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

// Gone, or dead and only not yet collected by whoever inherits it.
bool is_dead(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(stat, line)) return true;
  return line.substr(line.rfind(')') + 2, 1) == "Z";
}

TEST_F(RunnerTest, KilledRunnerResumesAsIfNothingHappened) {
  run("undisturbed");
  for (const char* key : {"info.tiny", "eval.tiny.gsm8k", "bench.tiny", "quantize.tiny.gptq-4bit-g16",
                          "eval.tiny.gptq-4bit-g16.boolq"}) {
    act(key, "hang");
    fs::remove(control_ / "started");
    const pid_t runner = ::fork();
    if (runner == 0) {
      try {
        run();
      } catch (const std::exception&) {
      }
      ::_exit(0);
    }
    ASSERT_TRUE(wait_for(control_ / "started")) << key;
    ::kill(runner, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(runner, &status, 0), runner);
    EXPECT_TRUE(WIFSIGNALED(status));
    const pid_t child = std::stoi(read_file(control_ / "started"));
    for (int i = 0; i < 500 && !is_dead(child); ++i) ::usleep(10'000);
    EXPECT_TRUE(is_dead(child)) << key;  // it does not go on measuring beside the next run
    behave();
  }
  size_t done = 0;
  for (const Cell& cell : cells()) done += cell.status == CellStatus::kDone;
  EXPECT_EQ(done, 3u);  // what was done before the last kill is kept
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

TEST_F(RunnerTest, ShardsMeasureEveryCellOnce) {
  plan_.models = {"tiny", "small"};
  plan_.methods = {{"gptq", 4, {16, 64}}};
  run("whole");
  std::vector<std::string> measured;
  for (size_t i = 1; i <= 3; ++i) {
    options_.shard = {i, 3};
    const std::string out = "shard" + std::to_string(i);
    const StudyOutcome outcome = run(out.c_str());
    EXPECT_TRUE(outcome.complete());
    EXPECT_EQ(outcome.cells, 6u);  // two of six variants
    EXPECT_THAT(outcome.message, HasSubstr("shard " + std::to_string(i) + "/3: all 6 cells done"));
    for (const Cell& cell : cells(out.c_str())) {
      if (cell.status == CellStatus::kDone) measured.push_back(cell.variant.name() + " " + cell.task);
    }
    EXPECT_EQ(cells(out.c_str()).size(), 18u);  // the rest is planned
  }
  std::sort(measured.begin(), measured.end());
  EXPECT_EQ(std::unique(measured.begin(), measured.end()), measured.end());
  EXPECT_EQ(measured.size(), 18u);
  EXPECT_EQ(parse_shard("2/3").index, 2u);
  EXPECT_EQ(parse_shard("2/3").count, 3u);
  for (const char* wrong : {"", "2", "0/3", "4/3", "2/", "/3", "a/b", "1/3x", "-1/3"})
    EXPECT_THROW(parse_shard(wrong), UsageError) << wrong;
}

TEST_F(RunnerTest, QuantizationsSideBySideEndTheSameAndBesideNothingTimed) {
  plan_.methods = {{"gptq", 4, {16, 32, 64, 128}}, {"rtn", 4, {0}}};
  ASSERT_TRUE(run("undisturbed").complete());
  act("quantize.tiny.gptq-4bit-g64", "fail");
  options_.jobs = 3;
  EXPECT_EQ(run().failed, 3u);
  // The first alone, to learn what it needs; then three, of which one fails; the last again alone.
  const std::vector<std::string> quantize = {"g16", "g32", "g64", "g128", "row"};
  const auto place = [&](const std::string& what) {
    for (size_t i = 0; i < recorder_.started.size(); ++i) {
      if (recorder_.started[i].find(what) != std::string::npos) return i;
    }
    return recorder_.started.size();
  };
  EXPECT_LT(place("g16 bench"), place("g32 quantize"));
  for (const char* size : {"g32", "g64", "g128"})
    EXPECT_LT(place(std::string(size) + " quantize"), place("g32 boolq")) << size;
  EXPECT_LT(place("g128 bench"), place("row quantize"));
  EXPECT_EQ(place("g64 boolq"), recorder_.started.size());
  EXPECT_EQ(reasons()["tiny gptq-4bit-g64 boolq"], "quantize: tiny: no luck");
  behave();
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

TEST_F(RunnerTest, InterruptReachesAllQuantizationsSideBySide) {
  plan_.methods = {{"gptq", 4, {16, 32, 64}}};
  run("undisturbed");
  options_.jobs = 2;
  act("quantize.tiny.gptq-4bit-g32", "hang");
  std::thread later([&] {
    EXPECT_TRUE(wait_for(control_ / "started"));
    ::kill(::getpid(), SIGINT);
  });
  const StudyOutcome outcome = run();
  later.join();
  EXPECT_EQ(outcome.stop_signal, SIGINT);
  EXPECT_EQ(outcome.failed, 0u);
  behave();
  EXPECT_TRUE(run().complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

TEST_F(RunnerTest, TwoRunsInOneDirectory) {
  fs::create_directories(dir_ / "out");
  const Store other = Store::open(dir_ / "out" / "results.db");
  EXPECT_THROW(run(), Error);
  EXPECT_THAT(calls(), IsEmpty());
}

TEST_F(RunnerTest, DirectoryThatCannotBe) {
  std::ofstream(dir_ / "out") << "a file";
  EXPECT_THROW(run(), Error);
}

}  // namespace
}  // namespace nibble
