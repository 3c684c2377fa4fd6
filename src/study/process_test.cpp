#include "study/process.h"

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nibble_process_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { fs::remove_all(dir_); }

  ChildCommand shell(const std::string& script) const {
    ChildCommand command;
    command.program = "/bin/sh";
    command.arguments = {"-c", script};
    command.log = dir_ / "log";
    return command;
  }
  ChildResult run(const std::string& script) {
    lines_.clear();
    return run_child(shell(script), stop_, [&](std::string_view line) { lines_.emplace_back(line); });
  }

  fs::path dir_;
  StopSignals stop_;
  std::vector<std::string> lines_;
};

TEST_F(ProcessTest, OutputMessagesAndLog) {
  const ChildResult result = run("echo out; printf 'one\\rtwo\\n\\n  three\\t\\n' >&2; cat");
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.output, "out\n");
  EXPECT_THAT(lines_, ElementsAre("one", "two", "three"));
  EXPECT_EQ(result.last_line, "three");
  EXPECT_THAT(read_file(dir_ / "log"), HasSubstr("$ nibble -c echo out"));
  EXPECT_THAT(read_file(dir_ / "log"), HasSubstr("one\rtwo\n\n  three\t\n"));
}

TEST_F(ProcessTest, MuchOfBothWithoutDeadlock) {
  const ChildResult result =
      run("i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; "
          "echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done");
  EXPECT_EQ(result.output.size(), 3000u * 41);
  EXPECT_EQ(lines_.size(), 3000u);
}

TEST_F(ProcessTest, Reasons) {
  EXPECT_EQ(run("echo progress >&2; echo 'nibble: x.gguf: truncated' >&2; exit 1").reason(),
            "x.gguf: truncated");
  EXPECT_EQ(run("exit 3").reason(), "exit 3 without a message");
  EXPECT_EQ(run("kill -SEGV $$").reason(), "killed by signal 11 (Segmentation fault)");
  EXPECT_THAT(run("kill -KILL $$").reason(), HasSubstr("signal 9"));
  ChildResult starved;
  starved.signal = SIGKILL;
  starved.out_of_memory = true;
  EXPECT_THAT(starved.reason(), HasSubstr("out of memory"));
}

TEST_F(ProcessTest, WaitsForTheChildNotForWhatItLeaves) {
  const ChildResult result = run("sleep 3 & echo done >&2");
  EXPECT_TRUE(result.ok());
  EXPECT_LT(result.seconds, 2);
  EXPECT_THAT(lines_, ElementsAre("done"));
}

TEST_F(ProcessTest, ProgramThatCannotRun) {
  ChildCommand command = shell("");
  command.program = dir_ / "missing";
  EXPECT_THROW(run_child(command, stop_, nullptr), Error);
  command = shell("exit 0");
  command.log = dir_ / "no" / "log";
  EXPECT_THROW(run_child(command, stop_, nullptr), Error);
}

TEST_F(ProcessTest, TooMuchOutputIsRefused) {
  ChildCommand command = shell("while :; do echo 0123456789; done");
  command.max_output = 1000;
  EXPECT_THROW(run_child(command, stop_, nullptr), Error);
}

TEST_F(ProcessTest, SignalReachesTheChild) {
  std::thread later([] {
    ::usleep(200'000);
    ::kill(::getpid(), SIGINT);
  });
  const ChildResult result = run("trap 'echo caught >&2; exit 5' INT; while :; do sleep 0.02; done");
  later.join();
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(result.last_line, "caught");
  EXPECT_EQ(stop_.received(), SIGINT);
}

TEST_F(ProcessTest, SecondSignalKills) {
  std::thread later([] {
    ::usleep(200'000);
    ::kill(::getpid(), SIGTERM);
    ::usleep(200'000);
    ::kill(::getpid(), SIGTERM);
  });
  const ChildResult result = run("trap '' TERM; while :; do sleep 0.02; done");
  later.join();
  EXPECT_EQ(result.signal, SIGKILL);
}

TEST_F(ProcessTest, ListenerThatThrowsLeavesNoChild) {
  const auto throwing = [](std::string_view) { fail("enough"); };
  EXPECT_THROW(run_child(shell("echo $$ > '" + (dir_ / "pid").string() + "'; echo x >&2; exec sleep 60"),
                         stop_, throwing),
               Error);
  const pid_t pid = std::stoi(read_file(dir_ / "pid"));
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(StopSignals, AreGivenBack) {
  struct sigaction before {
  }, after{};
  ::sigaction(SIGTERM, nullptr, &before);
  { const StopSignals stop; }
  ::sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

TEST(StopSignals, IgnoredStaysIgnored) {
  ::signal(SIGHUP, SIG_IGN);
  {
    const StopSignals stop;
    ::raise(SIGHUP);
    EXPECT_EQ(stop.received(), 0);
  }
  ::signal(SIGHUP, SIG_DFL);
}

}  // namespace
}  // namespace nibble
