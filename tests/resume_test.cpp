// Long work of the built program that is killed: the same command goes on and ends with the same bytes.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class Resume : public ::testing::Test {
 protected:
  std::string error() const { return read_file(dir_ / "stderr"); }
  int shell(const std::string& script) const {
    write_file_atomically(dir_ / "script", script);
    const int status = std::system(fmt::format("sh '{}'", (dir_ / "script").string()).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string command(const std::string& arguments) const {
    return fmt::format("'{}' {} >/dev/null 2>'{}'", NIBBLE_PROGRAM, arguments, (dir_ / "stderr").string());
  }
  int run(const std::string& arguments) const { return shell(command(arguments)); }
  // Runs until `file` is there, for a minute at most, then sends the signal.
  int run_and_kill(const std::string& arguments, const std::string& signal, const fs::path& file) const {
    return shell(
        fmt::format("{} & pid=$!\nfor i in $(seq 1200); do [ -e '{}' ] && break; sleep 0.05; done\n"
                    "kill -{} $pid; wait $pid",
                    command(arguments), file.string(), signal));
  }

  const TemporaryDirectory dir_;
};

TEST_F(Resume, AFineTuningThatWasKilled) {
  const std::string whole = (dir_ / "whole").string(), pieces = (dir_ / "pieces").string();
  const auto arguments = [&](const std::string& out, const char* more) {
    return fmt::format("finetune qwen2-mini {} --max-steps 12 --save-every 1 --score-rows 2 {}", out, more);
  };
  ASSERT_EQ(run(arguments(whole, "")), 0) << error();
  const fs::path state = fs::path(pieces) / "unfinished/finetune.safetensors";
  const fs::path report = fs::path(pieces) / "finetune_report.json";
  EXPECT_EQ(run_and_kill(arguments(pieces, ""), "KILL", state), 128 + 9);
  EXPECT_TRUE(fs::exists(state));
  EXPECT_FALSE(fs::exists(report));
  EXPECT_EQ(run_and_kill(arguments(pieces, ""), "TERM", state), 128 + 15);
  EXPECT_TRUE(fs::exists(state));
  EXPECT_EQ(run(arguments(pieces, "--rank 4")), 1);
  EXPECT_NE(error().find("begun with --rank 16, now 4; the same options go on with it"), std::string::npos)
      << error();
  ASSERT_EQ(run(arguments(pieces, "")), 0) << error();
  EXPECT_FALSE(fs::exists(fs::path(pieces) / "unfinished"));
  EXPECT_TRUE(read_file(fs::path(pieces) / "model.safetensors") ==
              read_file(fs::path(whole) / "model.safetensors"));
  const Json checks = read_json_file(report).at("checks");
  EXPECT_EQ(checks, read_json_file(fs::path(whole) / "finetune_report.json").at("checks"));
  EXPECT_TRUE(checks.back().contains("exact_match"));
  EXPECT_EQ(run(arguments(pieces, "")), 1);  // complete: nothing to go on with
  EXPECT_NE(error().find("exists; give another name"), std::string::npos) << error();
}

TEST_F(Resume, ATuningThatWasKilled) {
  const std::string whole = (dir_ / "whole").string(), pieces = (dir_ / "pieces").string();
  const auto arguments = [&](const std::string& out) {
    return fmt::format(
        "quantize qwen2-mini {} --method rtn --tune scales+zeros --tune-steps 40 --tune-tokens 64 "
        "--samples 24 --seqlen 64 --tune-rate 0.01 --tune-save-every 1",
        out);
  };
  ASSERT_EQ(run(arguments(whole)), 0) << error();
  const fs::path state = fs::path(pieces) / "unfinished/tuning.safetensors";
  const fs::path report = fs::path(pieces) / "quantization_report.json";
  for (const auto& [signal, number] : {std::pair{"KILL", 9}, {"TERM", 15}}) {
    EXPECT_EQ(run_and_kill(arguments(pieces), signal, state), 128 + number);
    EXPECT_TRUE(fs::exists(state));
    EXPECT_FALSE(fs::exists(report));
  }
  ASSERT_EQ(run(arguments(pieces)), 0) << error();
  EXPECT_FALSE(fs::exists(fs::path(pieces) / "unfinished"));
  EXPECT_TRUE(read_file(fs::path(pieces) / "model.safetensors") ==
              read_file(fs::path(whole) / "model.safetensors"));
  const Json tuned = read_json_file(report).at("tune");
  EXPECT_EQ(tuned.at("checks"),
            read_json_file(fs::path(whole) / "quantization_report.json").at("tune").at("checks"));
  EXPECT_GT(tuned.at("best_step"), 0);
}

}  // namespace
}  // namespace nibble
