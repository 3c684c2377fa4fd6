// Tests only: a runner whose program is a shell script, and all that its database says as one text.
#pragma once

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "study/runner.h"

namespace nibble::testing {

// Mimics the program's verbs. Every call goes into $control/calls; a file $control/act.KEY, where KEY is
// VERB.MODEL, or eval.MODEL.TASK, says what goes wrong. Scores come from the model's and task's names.
inline constexpr const char* kFakeProgram = R"sh(
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
      \"parameters\": 1000, \"seconds\": 1.5, \"peak_rss\": 1000}}" > "$out/quantization_report.json" ;;
  eval)
    echo '{"key": "0", "score": 1, "tokens": 3, "prediction": "yes", "gold": "yes", "prompt": "p", "output": "o",
      "detail": {"loglik": [-0.1, -2.5]}}' | tr -d '\n' > "$samples"
    echo "{\"model\": \"$base\", \"results\": [{\"task\": \"$task\", \"task_version\": 1, \"split\": \"validation\",
      \"rows\": 1, \"shots\": 0, \"seed\": 0, \"primary\": \"accuracy\", \"higher_is_better\": true,
      \"metrics\": {\"accuracy\": {\"value\": 0.$number, \"stderr\": 0.1, \"ci95\": [0.2, 0.9]}},
      \"checks\": {\"answer_share_yes\": 1}, \"latency_ms\": {\"mean\": 1, \"p50\": 1, \"p90\": 1, \"p95\": 1, \"p99\": 1},
      \"throughput\": {\"prompt_tokens_per_s\": 10, \"output_tokens_per_s\": 20}, \"seconds\": 2}],
      \"memory_bytes\": $memory}" > "$json" ;;
  compare)
    echo "{\"base\": \"x\", \"kl\": {\"mean\": 0.$number, \"stderr\": 0.001}, \"top1_agreement\": 0.9,
      \"tokens\": 255, \"peak_rss\": 9}" > "$json" ;;
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
    std::string name = (std::filesystem::temp_directory_path() / "nibble_runner_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    control_ = dir_ / "control";
    std::filesystem::create_directories(control_);
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
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void act(const std::string& key, const char* what) const {
    std::ofstream(control_ / ("act." + key)) << what;
  }
  void behave() const {
    for (const auto& entry : std::filesystem::directory_iterator(control_)) {
      if (entry.path().filename().string().starts_with("act.")) std::filesystem::remove(entry.path());
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
           << cell.reason << ' ' << cell.bench << ' ' << cell.distance << '\n';
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
  bool wait_for(const std::filesystem::path& file) const {
    for (int i = 0; i < 1000 && !std::filesystem::exists(file); ++i) ::usleep(10'000);
    return std::filesystem::exists(file);
  }

  std::filesystem::path dir_, control_;
  RunnerOptions options_;
  StudyPlan plan_;
  Recorder recorder_;
};

}  // namespace nibble::testing
