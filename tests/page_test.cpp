// report.html of studies that the built program made, in headless Chromium (scripts/check_page.py).
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/file.h"
#include "report/page_server.h"
#include "report/synthetic_study.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kNoChromium = 77;  // of check_page.py

class PageInBrowser : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nibble-page-{}", ::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  int run(const std::string& command) {
    const int status = std::system(fmt::format("{} >'{}' 2>&1", command, (dir_ / "output").string()).c_str());
    output_ = read_file(dir_ / "output");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Skips where there is no Chromium; `charts`: of each model at least.
  void check(const fs::path& study, int charts, int analysed = 0, int finetuned = 0) {
    const int code = run(fmt::format("python3 '{}' '{}' --charts {} --analysed {} --finetuned {}",
                                     (testing::source_dir() / "scripts" / "check_page.py").string(),
                                     (study / "report.html").string(), charts, analysed, finetuned));
    if (code == kNoChromium) GTEST_SKIP() << output_;
    EXPECT_EQ(code, 0) << output_;
  }
  void study_and_check(const std::string& options, int charts,
                       const std::vector<std::string>& analysed = {}) {
    const fs::path out = dir_ / "study";
    ASSERT_EQ(run(fmt::format("'{}' study {} --samples 2 --seqlen 32 --bench-prompt 16 --bench-generate 4 "
                              "--bench-repetitions 1 --kl-windows 2 --out '{}'",
                              NIBBLE_PROGRAM, options, out.string())),
              0)
        << output_;
    for (const std::string& model : analysed) {
      ASSERT_EQ(run(fmt::format(
                    "'{}' analyze {} --bits 4 --group-sizes 16,64 --samples 2 --seqlen 64 --kl-tokens 64 "
                    "--study '{}'",
                    NIBBLE_PROGRAM, model, out.string())),
                0)
          << output_;
    }
    check(out, charts, static_cast<int>(analysed.size()));
  }

  fs::path dir_;
  std::string output_;
};

TEST_F(PageInBrowser, OfTheMiniModels) {
  study_and_check(
      "--models llama-mini,phi-mini --methods rtn --group-sizes 16,64 --tasks boolq,gsm8k,wikitext --limit 6 "
      "--window 128",
      10, {"llama-mini"});
}

TEST_F(PageInBrowser, OfSmolLm2) {
  NIBBLE_NEEDS(testing::fetched_models_dir() / "SmolLM2-135M-Instruct.Q4_1.gguf");
  study_and_check(
      "--models smollm2-135m --methods rtn --group-sizes 64 --tasks boolq,wikitext --limit 2 --window 64", 8);
}

// As `nibble report --serve` serves it, while a study writes.
TEST_F(PageInBrowser, LiveShowsWhatTheStudyWrites) {
  report::testing::SyntheticStudy study;
  study.add_healthy_model("alpha");
  Cell planned;
  planned.variant = report::testing::quantized("alpha", "rtn", 64);
  std::vector<Cell> cells(20, planned);
  for (size_t i = 0; i < cells.size(); ++i) cells[i].task = fmt::format("boolq{}", i);
  study.store().plan(cells);
  report::PageServer server(study.dir());
  const int port = server.bind(0);
  std::jthread serving([&] { server.run(); });
  std::jthread writing([&](const std::stop_token& stop) {
    for (const Cell& cell : cells) {
      for (int i = 0; i < 30 && !stop.stop_requested(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (stop.stop_requested()) return;
      study.store().save(
          report::testing::choice_cell(cell.variant, report::testing::eighty_right(), cell.task));
    }
  });
  const int code = run(fmt::format("python3 '{}' --live http://127.0.0.1:{}/",
                                   (testing::source_dir() / "scripts" / "check_page.py").string(), port));
  writing.request_stop();
  writing.join();
  server.stop();
  if (code == kNoChromium) GTEST_SKIP() << output_;
  EXPECT_EQ(code, 0) << output_;
}

// Texts that would be markup, a failed and a waiting cell, no facts of one model.
TEST_F(PageInBrowser, OfHostileNamesAndGaps) {
  using namespace report;
  const std::string name = "</script><img src=x onerror=alert(1)>";
  report::testing::SyntheticStudy study;
  study.add_healthy_model("alpha");
  const Variant base = report::testing::baseline(name), gptq = report::testing::quantized(name, "gptq", 0);
  study.store().save(report::testing::choice_cell(base, "1100110011"));
  study.store().save(report::testing::choice_cell(gptq, "1010110011"));
  Cell failed;
  failed.variant = gptq;
  failed.task = "wikitext";
  failed.status = CellStatus::kFailed;
  failed.reason = "<b>killed</b> by signal 9";
  study.store().save(failed);
  Cell waiting = failed;
  waiting.task = "gsm8k";
  study.store().plan({waiting});
  write_report(study.store(), study.dir());
  check(study.dir(), 2);
}

// With what fine-tuning changed, of models whose names would be markup.
TEST_F(PageInBrowser, OfAFineTunedModel) {
  using namespace report;
  const std::string name = "alpha<i>tuned</i>";
  report::testing::SyntheticStudy study;
  study.add_healthy_model("alpha");
  study.add_healthy_model(name);
  study.store().set_meta("finetuned", Json::array({{{"model", name}, {"base", "alpha"}}}).dump());
  write_report(study.store(), study.dir());
  check(study.dir(), 2, 0, 1);
}

}  // namespace
}  // namespace nibble
