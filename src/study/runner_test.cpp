#include "study/runner.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
namespace fs = std::filesystem;

// Mimics the program's verbs. Every call goes into $control/calls; a file $control/act.KEY, where KEY is
// VERB.MODEL, or eval.MODEL.TASK, says what goes wrong. Scores come from the model's and task's names.
constexpr const char* kFakeProgram = R"sh(
verb=$1; model=$2; base=$(basename "$2"); shift 2
echo "$verb $base $*" >> "$control/calls"
key=$verb.$base
if [ $verb = quantize ]; then out=$1; key=$verb.$(basename "$out"); fi
while [ $# -gt 0 ]; do
  case $1 in
    --tasks) task=$2; key=$key.$2 ;;
    --json) json=$2 ;;
    --log-samples) samples=$2 ;;
  esac
  shift
done
number=$(printf %s "$base$task" | cksum | cut -d' ' -f1)
echo "working on $key" >&2
act=; [ -e "$control/act.$key" ] && act=$(cat "$control/act.$key")
half='{"model": '
case $act in
  fail) echo "nibble: $base: no luck" >&2; exit 1 ;;
  full) echo "nibble: x: write failed: No space left on device" >&2; exit 1 ;;
  crash) kill -SEGV $$ ;;
  kill) kill -KILL $$ ;;
  silent) exit 0 ;;
  half) printf '%s' "$half" > "$json"; exit 0 ;;
  wrong) echo '{"results": [{"task": "other"}]}' > "$json"; exit 0 ;;
  hang) [ -n "$json" ] && printf '%s' "$half" > "$json"
        [ -n "$out" ] && mkdir -p "$out" && printf '%s' "$half" > "$out/quantization_report.json"
        echo $$ > "$control/started.new"; mv "$control/started.new" "$control/started"; exec sleep 60 ;;
esac
memory='{"file": 1, "weights": 2, "kv_cache": 3, "workspace": 4, "peak_rss": 5, "peak_gpu": 0}'
case $verb in
  info) echo "{\"parameters\": 1000, \"file_bytes\": 2000, \"bits_per_weight\": 16, \"sha256\": \"$number\"}" > "$json" ;;
  quantize)
    [ -e "$control/weights" ] && number=$(cat "$control/weights")
    rm -rf "$out"; mkdir -p "$out"
    echo "{\"model_sha256\": \"$number\", \"totals\": {\"file_bytes\": 600, \"bits_per_weight\": 4.625,
      \"parameters\": 1000, \"seconds\": 1.5}}" > "$out/quantization_report.json" ;;
  eval)
    echo '{"key": "0", "score": 1, "tokens": 3, "prediction": "yes", "gold": "yes", "prompt": "p", "output": "o",
      "detail": {"loglik": [-0.1, -2.5]}}' | tr -d '\n' > "$samples"
    echo "{\"model\": \"$base\", \"results\": [{\"task\": \"$task\", \"task_version\": 1, \"split\": \"validation\",
      \"rows\": 1, \"shots\": 0, \"seed\": 0, \"primary\": \"accuracy\", \"higher_is_better\": true,
      \"metrics\": {\"accuracy\": {\"value\": 0.$number, \"stderr\": 0.1, \"ci95\": [0.2, 0.9]}},
      \"checks\": {\"answer_share_yes\": 1}, \"latency_ms\": {\"mean\": 1, \"p50\": 1, \"p90\": 1, \"p95\": 1, \"p99\": 1},
      \"throughput\": {\"prompt_tokens_per_s\": 10, \"output_tokens_per_s\": 20}, \"seconds\": 2}],
      \"memory_bytes\": $memory}" > "$json" ;;
  bench) echo "[{\"test\": \"pp8\", \"tokens_per_s\": {\"mean\": 9, \"sd\": 1}, \"memory_bytes\": $memory}]" ;;
esac
)sh";

// Writes down what happens, in short.
class Recorder : public StudyObserver {
 public:
  void step_started(const StudyStep& step) override {
    started.push_back(step.variant.name() + " " + step.work);
    steps.push_back(step);
  }
  void progress(const StudyStep&, std::string_view line) override { lines.emplace_back(line); }
  void step_failed(const StudyStep& step, const std::string& reason) override {
    failed.push_back(step.variant.name() + " " + step.work + ": " + reason);
  }
  void cell_done(const StudyStep&, const Cell&) override { ++cells; }
  std::vector<std::string> started, lines, failed;
  std::vector<StudyStep> steps;
  int cells = 0;
};

class RunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nibble_runner_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    control_ = dir_ / "control";
    fs::create_directories(control_);
    options_.program = dir_ / "fake";
    options_.version = "test";
    std::ofstream(options_.program) << "#!/bin/sh\ncontrol='" << control_.string() << "'" << kFakeProgram;
    ::chmod(options_.program.c_str(), 0755);
    plan_.models = {"tiny"};
    plan_.methods = {{"gptq", 4, {16}}};
    plan_.tasks = {"boolq", "gsm8k"};
    plan_.threads = 1;
    plan_.limit = 7;
  }
  void TearDown() override { fs::remove_all(dir_); }

  void act(const std::string& key, const char* what) const {
    std::ofstream(control_ / ("act." + key)) << what;
  }
  void behave() const {
    for (const auto& entry : fs::directory_iterator(control_)) {
      if (entry.path().filename().string().starts_with("act.")) fs::remove(entry.path());
    }
  }
  std::vector<std::string> calls() const {
    std::vector<std::string> lines;
    std::ifstream file(control_ / "calls");
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  StudyOutcome run(const char* out = "out") {
    recorder_ = Recorder();
    return run_study(plan_, dir_ / out, options_, recorder_);
  }
  std::vector<Cell> cells(const char* out = "out") const {
    return Store::open(dir_ / out / "results.db", true).cells(true);
  }
  std::map<std::string, std::string> reasons() const {
    std::map<std::string, std::string> all;
    for (const Cell& cell : cells()) {
      if (cell.status == CellStatus::kFailed) all[cell.variant.name() + " " + cell.task] = cell.reason;
    }
    return all;
  }
  // All that the database says, but for wall times.
  std::string content(const char* out) const {
    const Store store = Store::open(dir_ / out / "results.db", true);
    std::ostringstream text;
    for (const char* key : {"study_toml", "version", "cpu", "isa", "threads"})
      text << *store.meta(key) << '\n';
    for (const Cell& cell : store.cells(true)) {
      text << cell.variant.name() << ' ' << cell.task << ' ' << static_cast<int>(cell.status) << ' '
           << cell.reason << ' ' << cell.bench << '\n';
      if (cell.result) {
        text << to_json(*cell.result) << '\n';
        for (const Sample& sample : cell.result->samples) text << to_json(sample) << '\n';
      }
      if (cell.memory) text << to_json(*cell.memory) << '\n';
      if (const auto f = store.facts(cell.variant)) {
        text << f->sha256 << ' ' << f->file_bytes << ' ' << f->bits_per_weight << ' ' << f->parameters << ' '
             << f->quantize_seconds << ' ' << f->quantization_report << '\n';
      }
    }
    return text.str();
  }
  bool wait_for(const fs::path& file) const {
    for (int i = 0; i < 1000 && !fs::exists(file); ++i) ::usleep(10'000);
    return fs::exists(file);
  }

  fs::path dir_, control_;
  RunnerOptions options_;
  StudyPlan plan_;
  Recorder recorder_;
};

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
  plan_.seed = 11;
  plan_.data = dir_;
  plan_.symmetric = true;
  plan_.calibration = {dir_ / "c4.txt"};
  plan_.samples = 5;
  plan_.seqlen = 6;
  plan_.window = 64;
  plan_.dtype = "float32";
  plan_.tasks = {"boolq", "gsm8k", "wikitext"};
  ASSERT_TRUE(run().complete());
  const auto all = calls();
  const std::string d = dir_.string(), tmp = d + "/out/tmp/";
  const std::string tail =
      " --seed 11 --threads 1 --json " + tmp + "result.json --log-samples " + tmp + "samples.jsonl";
  EXPECT_EQ(all[0], "info tiny --json " + tmp + "info.json");
  EXPECT_EQ(all[1], "eval tiny --tasks boolq --data " + d + " --limit 7 --dtype float32" + tail);
  EXPECT_EQ(all[2], "eval tiny --tasks gsm8k --data " + d + " --limit 7 --shots 3 --dtype float32" + tail);
  EXPECT_EQ(all[3],
            "eval tiny --tasks wikitext --data " + d + " --limit 7 --window 64 --dtype float32" + tail);
  EXPECT_EQ(all[4], "bench tiny -p 128 -n 32 -r 3 -t 1 -o json --dtype float32");
  EXPECT_EQ(all[5],
            "quantize tiny " + d + "/out/models/tiny.gptq-4bit-g16 --method gptq --bits 4 --group-size 16" +
                " --symmetric --calibration " + d + "/c4.txt --samples 5 --seqlen 6 --seed 11 --threads 1" +
                " --force --json " + tmp + "quantize.json");
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
              ElementsAre("tiny baseline wikitext", "tiny gptq-4bit-g16 wikitext",
                          "tiny rtn-4bit-row quantize", "tiny rtn-4bit-row boolq", "tiny rtn-4bit-row gsm8k",
                          "tiny rtn-4bit-row wikitext", "tiny rtn-4bit-row bench"));
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
