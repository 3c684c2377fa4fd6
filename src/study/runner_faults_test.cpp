// What a study survives: kill -9 at any moment, and a disk that takes no more.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "study/runner_fixture.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;
namespace fs = std::filesystem;

class RunnerFaults : public testing::RunnerTest {
 protected:
  // In a process of its own, so that it can die. Exit 0: complete; 3: it said that something is wrong.
  pid_t start(const char* out, rlim_t largest_file = RLIM_INFINITY) {
    const pid_t runner = ::fork();
    if (runner != 0) return runner;
    if (largest_file != RLIM_INFINITY) {
      ::signal(SIGXFSZ, SIG_IGN);  // writes fail instead, as on a full disk
      const rlimit limit{largest_file, largest_file};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    int code = 3;
    try {
      code = run(out).complete() ? 0 : 2;
    } catch (const std::exception& error) {
      std::ofstream(dir_ / "error") << error.what();
    }
    ::_exit(code);
  }
  static int wait_for_end(pid_t runner) {
    int status = 0;
    while (::waitpid(runner, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  // "variant task" of the cells that are done; none while there is no database.
  std::set<std::string> done(const char* out) const {
    std::set<std::string> names;
    try {
      for (const Cell& cell : cells(out)) {
        if (cell.status == CellStatus::kDone) names.insert(cell.variant.name() + " " + cell.task);
      }
    } catch (const Error&) {
    }
    return names;
  }
};

// Studies one after another, each killed until it is complete, 50 kills in all.
TEST_F(RunnerFaults, KilledAtFiftyRandomMomentsItEndsAsIfUndisturbed) {
  const auto begin = Clock::now();
  ASSERT_TRUE(run("undisturbed").complete());
  const auto whole = Clock::now() - begin;
  const std::string expected = content("undisturbed");
  Random random(20260101);
  int kills = 0, resumed = 0;
  for (int study = 0; kills < 50; ++study) {
    const std::string out = "out" + std::to_string(study);
    std::set<std::string> kept;
    for (bool complete = false; !complete;) {
      const pid_t runner = start(out.c_str());
      if (kills < 50) {
        const auto part = 0.7 * static_cast<double>(random.below(1000)) / 1000;
        std::this_thread::sleep_for(
            std::chrono::duration<double>(part * std::chrono::duration<double>(whole).count()));
        ::kill(runner, SIGKILL);
      }
      const int end = wait_for_end(runner);
      ASSERT_TRUE(end == 0 || end == -SIGKILL) << end << ": " << read_file(dir_ / "error");
      complete = end == 0;
      kills += end == -SIGKILL;
      // What was done stays done.
      const auto now = done(out.c_str());
      ASSERT_TRUE(std::includes(now.begin(), now.end(), kept.begin(), kept.end())) << out;
      resumed += !complete && !now.empty();
      kept = now;
    }
    ASSERT_EQ(content(out.c_str()), expected) << out;
  }
  EXPECT_EQ(kills, 50);
  EXPECT_GT(resumed, 5);  // the moments were not all before the first cell
}

// The largest file allowed grows from a few kilobytes: writes fail at ever later places, of the runner and of
// its children alike.
TEST_F(RunnerFaults, DiskThatTakesNoMoreLosesAtMostTheCellInHand) {
  ASSERT_TRUE(run("undisturbed").complete());
  const auto size = fs::file_size(dir_ / "undisturbed" / "results.db");
  std::set<std::string> kept;
  int refused = 0;
  for (rlim_t limit = 512; limit < 2 * size; limit += 2560) {
    const int end = wait_for_end(start("out", limit));
    ASSERT_TRUE(end == 0 || end == 2 || end == 3) << end;
    refused += end != 0;
    const auto now = done("out");
    ASSERT_TRUE(std::includes(now.begin(), now.end(), kept.begin(), kept.end())) << limit;
    kept = now;
  }
  EXPECT_GT(refused, 3);
  ASSERT_TRUE(run("out").complete());
  EXPECT_EQ(content("out"), content("undisturbed"));
}

}  // namespace
}  // namespace nibble
