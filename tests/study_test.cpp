// A study with the built program, from the bundled model to the report.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "io/test_files.h"
#include "study/store.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class StudyEndToEnd : public ::testing::Test {
 protected:
  std::string command(const char* out) const {
    return fmt::format(
        "exec '{}' study --models qwen2-mini --methods rtn,gptq --group-sizes 64 --tasks boolq,wikitext "
        "--limit 12 --window 128 "
        "--samples 4 --seqlen 64 --kl-windows 2 --bench-prompt 32 --bench-generate 8 --bench-repetitions 1 "
        "--out '{}' >'{}' "
        "2>'{}'",
        NIBBLE_PROGRAM, (dir_ / out).string(), (dir_ / "stdout").string(), (dir_ / "stderr").string());
  }
  int run(const char* out) const { return WEXITSTATUS(std::system(command(out).c_str())); }

  // Starts the study and stops it once its database has a finished cell of the quantized model.
  void run_and_stop(const char* out) const {
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl("/bin/sh", "sh", "-c", command(out).c_str(), nullptr);
      ::_exit(127);
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    while (std::chrono::steady_clock::now() < deadline && done_quantized(out) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ::kill(child, SIGTERM);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM) << read_file(dir_ / "stderr");
  }
  size_t done_quantized(const char* out) const {
    const fs::path file = dir_ / out / "results.db";
    if (!fs::exists(file)) return 0;
    try {
      size_t done = 0;
      for (const Cell& cell : Store::open(file, true).cells())
        done += !cell.variant.is_baseline() && cell.status == CellStatus::kDone;
      return done;
    } catch (const Error&) {
      return 0;  // being made
    }
  }
  std::vector<Cell> cells(const char* out) const {
    return Store::open(dir_ / out / "results.db", true).cells(true);
  }

  const TemporaryDirectory dir_;
};

// Scores to the last digit, and what every row said.
Json scores(const std::vector<Cell>& cells) {
  Json all = Json::object();
  for (const Cell& cell : cells) {
    if (cell.task == kDistance) all[cell.variant.name() + " kl"] = cell.distance.at("kl");
    if (!cell.result) continue;
    Json samples = Json::array();
    for (const Sample& s : cell.result->samples) samples.push_back({s.key, s.score, s.prediction, s.detail});
    Json metrics = Json::object();
    for (const auto& [name, metric] : cell.result->metrics) metrics[name] = metric.value;
    all[cell.variant.name() + " " + cell.task] = {metrics, cell.result->checks, samples};
  }
  return all;
}

TEST_F(StudyEndToEnd, StoppedOrNotItEndsTheSameAndQuantizedNeedsLessMemory) {
  ASSERT_EQ(run("whole"), 0) << read_file(dir_ / "stderr");
  EXPECT_NE(read_file(dir_ / "stdout").find("Table 1"), std::string::npos);
  for (const char* file : {"table1.md", "results.csv", "report.json", "study.toml"})
    EXPECT_TRUE(fs::exists(dir_ / "whole" / file)) << file;
  const auto whole = cells("whole");
  ASSERT_EQ(whole.size(), 11u);  // baseline, rtn, gptq; two tasks and bench; two distances
  std::map<std::string, uint64_t> baseline;
  for (const Cell& cell : whole) {
    ASSERT_EQ(cell.status, CellStatus::kDone)
        << cell.variant.name() << ' ' << cell.task << ": " << cell.reason;
    if (cell.task == kDistance) {
      const double kl = cell.distance.at("kl").at("mean").get<double>();
      EXPECT_GT(kl, 0);
      EXPECT_LT(kl, 0.5);
      EXPECT_GT(cell.distance.at("top1_agreement").get<double>(), 0.7);
      continue;
    }
    ASSERT_TRUE(cell.memory.has_value());
    if (cell.variant.is_baseline()) {
      baseline[cell.task] = cell.memory->peak_rss;
    } else {
      EXPECT_LT(cell.memory->peak_rss, baseline.at(cell.task)) << cell.variant.name() << ' ' << cell.task;
    }
  }

  const auto recommend = [&](const std::string& limits) {
    return WEXITSTATUS(
        std::system(fmt::format("'{}' recommend '{}' {} --json '{}' >'{}' 2>'{}'", NIBBLE_PROGRAM,
                                (dir_ / "whole").string(), limits, (dir_ / "recommend.json").string(),
                                (dir_ / "stdout").string(), (dir_ / "stderr").string())
                        .c_str()));
  };
  EXPECT_EQ(recommend("--max-size 100MB"), 0) << read_file(dir_ / "stderr");
  EXPECT_EQ(read_file(dir_ / "stdout").rfind("Deploy qwen2-mini ", 0), 0u);
  EXPECT_EQ(recommend("--max-size 1KB"), 3);
  EXPECT_EQ(read_file(dir_ / "stdout").rfind("No configuration meets the specification. Nearest: ", 0), 0u);
  EXPECT_EQ(read_file(dir_ / "stderr"), "");
  EXPECT_EQ(read_json_file(dir_ / "recommend.json").at("verdict"), "none");
  EXPECT_EQ(recommend("--max-size tiny"), 2);
  EXPECT_EQ(recommend("--task gsm8k"), 2);

  const auto dry = [&](const char* out) {
    const int status =
        std::system((command(out).insert(command(out).find(" --out "),
                                         " --dry-run --like '" + (dir_ / "whole").string() + "'"))
                        .c_str());
    return WEXITSTATUS(status);
  };
  EXPECT_EQ(dry("stopped"), 0) << read_file(dir_ / "stderr");
  const std::string forecast = read_file(dir_ / "stdout");
  EXPECT_NE(forecast.find("0 of 11 cells are done; 13 steps to run, predicted from 11 measured cells"),
            std::string::npos)
      << forecast;
  EXPECT_NE(forecast.find("time    about "), std::string::npos) << forecast;
  EXPECT_FALSE(fs::exists(dir_ / "stopped"));

  run_and_stop("stopped");
  const size_t before = done_quantized("stopped");
  EXPECT_GE(before, 1u);
  EXPECT_LT(before, 8u);
  ASSERT_EQ(run("stopped"), 0) << read_file(dir_ / "stderr");
  EXPECT_EQ(scores(cells("stopped")), scores(whole));
}

TEST_F(StudyEndToEnd, AnAnalysisStandsInTheReportOfItsModelsStudy) {
  const std::string study = (dir_ / "study").string(), file = (dir_ / "analysis.json").string();
  const auto nibble = [&](const std::string& arguments) {
    return WEXITSTATUS(std::system(fmt::format("'{}' {} >'{}' 2>'{}'", NIBBLE_PROGRAM, arguments,
                                               (dir_ / "stdout").string(), (dir_ / "stderr").string())
                                       .c_str()));
  };
  const auto errors = [&] { return read_file(dir_ / "stderr"); };
  const auto reported = [&] { return read_json_file(fs::path(study) / "report.json").at("analyses").at(0); };
  const std::string quick = " --bits 4 --group-sizes 16,64 --samples 2 --seqlen 64";
  ASSERT_EQ(nibble(fmt::format("analyze llama-mini{} --study '{}'", quick, study)), 1);
  EXPECT_NE(errors().find("results.db: not there"), std::string::npos) << errors();
  ASSERT_EQ(
      nibble(fmt::format("study --models llama-mini --methods rtn --group-sizes 64 --tasks boolq --limit 2 "
                         "--bench-repetitions 0 --samples 2 --seqlen 32 --out '{}'",
                         study)),
      0)
      << errors();
  EXPECT_NE(reported().at("missing").get<std::string>().find("nibble analyze llama-mini"), std::string::npos);

  ASSERT_EQ(nibble(fmt::format("analyze qwen2-mini{} --study '{}'", quick, study)), 1);
  EXPECT_NE(errors().find("qwen2-mini: of other weights than the study's models: llama-mini"),
            std::string::npos)
      << errors();
  ASSERT_EQ(nibble(fmt::format("analyze llama-mini{} --kl-tokens 0 --out '{}'", quick, file)), 0) << errors();
  ASSERT_EQ(nibble(fmt::format("report '{}' --analysis '{}'", study, file)), 0) << errors();
  EXPECT_EQ(reported().at("linears").size(), 42u);
  EXPECT_EQ(reported().at("kl_positions"), 0);
  ASSERT_EQ(nibble(fmt::format("analyze llama-mini{} --kl-tokens 64 --study '{}'", quick, study)), 0)
      << errors();
  EXPECT_GT(reported().at("kl_positions"), 0);
  EXPECT_EQ(reported().at("layers").size(), 6u);
  EXPECT_NE(read_file(fs::path(study) / "table1.md").find("## Sensitivity of the layers"), std::string::npos);
}

TEST_F(StudyEndToEnd, ModelsThatOthersQuantizedAreItsRows) {
  const std::string gptq = (testing::mini_dir() / "foreign" / "gptq-sym-g32").string();
  const std::string alone = (testing::mini_dir() / "foreign" / "compressed-tensors-w8-channel").string();
  write_file_atomically(
      dir_ / "study.toml",
      fmt::format(
          "models = ['llama-mini', '{}', '{}']\nmethods = []\ntasks = ['boolq', 'wikitext']\nlimit = 12\n"
          "window = 128\ndata = '{}'\nkl = {{windows = 2}}\nbench = {{repetitions = 0}}\n",
          gptq, alone, (testing::mini_dir() / "data").string()));
  ASSERT_EQ(
      std::system(fmt::format("'{0}' study '{1}/study.toml' --out '{1}/out' >'{1}/stdout' 2>'{1}/stderr'",
                              NIBBLE_PROGRAM, dir_.path().string())
                      .c_str()),
      0)
      << read_file(dir_ / "stderr");
  EXPECT_NE(read_file(dir_ / "stderr")
                .find("gptq 4-bit g32, quantized before: measured as it is, against llama-mini"),
            std::string::npos);
  EXPECT_NE(read_file(dir_ / "stdout").find("gptq g32"), std::string::npos);

  const Json report = read_json_file(dir_ / "out" / "report.json");
  ASSERT_EQ(report.at("table1").size(), 4u);
  for (const Json& row : report.at("table1")) {
    SCOPED_TRACE(row.dump());
    const Json& best = row.at("best_variant");
    EXPECT_TRUE(row.at("best").contains("value"));
    if (row.at("model") == "llama-mini") {
      EXPECT_EQ(best, Json({{"model", "llama-mini"},
                            {"method", "gptq"},
                            {"bits", 4},
                            {"group_size", 32},
                            {"source", gptq}}));
      EXPECT_TRUE(row.at("baseline").contains("value"));
      EXPECT_GT(row.at("difference").at("pairs").get<int>(), 0);
      EXPECT_LT(row.at("size_change").at("share").get<double>(), -0.5);
    } else {
      EXPECT_EQ(best, Json({{"model", alone},
                            {"method", "compressed-tensors"},
                            {"bits", 8},
                            {"group_size", 0},
                            {"source", alone}}));
      EXPECT_EQ(row.at("baseline").at("missing"), "its unquantized model is not in the study");
      EXPECT_EQ(row.at("difference").at("missing"), "its unquantized model is not in the study");
    }
  }
  for (const Json& variant : report.at("variants")) {
    if (variant.at("method") == "gptq") {
      EXPECT_LT(variant.at("kl_nats").at("value").get<double>(), 0.5);
    } else if (variant.at("method") == "compressed-tensors") {
      EXPECT_EQ(variant.at("kl_nats").at("missing"), "its unquantized model is not in the study");
    }
  }
  const std::string csv = read_file(dir_ / "out" / "results.csv");
  EXPECT_NE(csv.find("\nllama-mini,gptq,4,32,boolq,"), std::string::npos);
  EXPECT_NE(csv.find(",compressed-tensors,8,0,"), std::string::npos);
  EXPECT_NE(read_file(dir_ / "out" / "table1.md").find("compressed-tensors 8-bit row"), std::string::npos);
}

}  // namespace
}  // namespace nibble
