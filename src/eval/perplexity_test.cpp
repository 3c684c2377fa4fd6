#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/file.h"
#include "eval/task.h"
#include "eval/windows.h"
#include "fake_language_model.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using testing::FakeLanguageModel;
using ::testing::HasSubstr;
using testing::TemporaryDir;
using Ids = std::vector<int32_t>;

TaskOptions perplexity_options(const std::filesystem::path& dir, int window = 0, int64_t limit = 0) {
  TaskOptions options;
  options.data_dir = dir;
  options.window = window;
  options.limit = limit;
  return options;
}

TEST(Windows, PerplexityWindowsAreDisjointAndDropTheTail) {
  const Ids stream = {1, 2, 3, 4, 5, 6, 7};
  EXPECT_THAT(cut_windows(stream, 3, 0), ElementsAre(Ids{1, 2, 3}, Ids{4, 5, 6}));
  EXPECT_THAT(cut_windows(stream, 3, 1), ElementsAre(Ids{1, 2, 3}));
  EXPECT_THAT(cut_windows(stream, 7, 9), ElementsAre(stream));
  EXPECT_THAT(cut_windows(stream, 8, 0), ElementsAre(stream));  // shorter than a window
  EXPECT_TRUE(cut_windows(Ids{1}, 8, 0).empty());
}

TEST(Windows, ComparisonWindowsBeginWithTheStartToken) {
  const Ids stream = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_THAT(comparison_windows(stream, 4, 0, 99),
              ElementsAre(Ids{99, 1, 2, 3}, Ids{99, 4, 5, 6}, Ids{99, 7, 8, 9}));
  EXPECT_THAT(comparison_windows(stream, 4, 2, 99), ElementsAre(Ids{99, 1, 2, 3}, Ids{99, 4, 5, 6}));
  EXPECT_THAT(comparison_windows(stream, 4, 0, -1), ElementsAre(Ids{1, 2, 3, 4}, Ids{5, 6, 7, 8}));
  EXPECT_THAT(error_of([&] { comparison_windows(stream, 16, 0, -1); }),
              HasSubstr("9 tokens, one window needs 16"));
  EXPECT_THROW(comparison_windows(stream, 3, 0, -1), UsageError);
  EXPECT_THROW(comparison_windows(stream, 4, -1, -1), UsageError);
}

TEST(Windows, ScoredPositionsOf512Are256To510) {
  EXPECT_EQ(scored_positions(512), (std::pair<size_t, size_t>{256, 511}));
  EXPECT_EQ(scored_positions(4), (std::pair<size_t, size_t>{2, 3}));
}

// The golden sums, given per window, must come out as the golden perplexity; the windows must be
// the stream, tokenized once with its start token, in pieces of 512.
TEST(Perplexity, GoldenWindows) {
  for (const char* name : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const Json golden = read_json_file(testing::mini_dir() / "golden" /
                                       (std::string(name) + ".json"))["wikitext_first16_windows_of_512"];
    FakeLanguageModel model(name);
    model.nll_of = [&](size_t w) { return golden["nll_sum_per_window"][w].get<double>(); };
    const TaskResult r =
        run_task("wikitext", model, perplexity_options(testing::mini_dir() / "data", 512, 16), {});
    EXPECT_NEAR(r.metrics.at("ppl").value, golden["ppl"].get<double>(), 1e-4);
    EXPECT_EQ(r.checks.at("predicted_tokens"), golden["predicted_tokens"].get<double>());
    EXPECT_EQ(r.rows, 16);
    EXPECT_EQ(r.primary, "ppl");
    EXPECT_FALSE(r.higher_is_better);
    EXPECT_EQ(r.samples[5].score, golden["nll_sum_per_window"][5].get<double>());
    EXPECT_EQ(r.samples[5].tokens, 511);

    const Ids stream =
        model.tokenizer().encode(read_file(testing::mini_dir() / "data" / "wikitext.test.txt"));
    ASSERT_EQ(model.windows.size(), 16u);
    Ids joined;
    for (const Ids& window : model.windows) joined.insert(joined.end(), window.begin(), window.end());
    EXPECT_EQ(joined, Ids(stream.begin(), stream.begin() + 16 * 512));
    const int32_t start = model.tokenizer().start_token();
    EXPECT_EQ(std::count(joined.begin(), joined.end(), start), start >= 0 ? 1 : 0);
  }
}

TEST(Perplexity, WordsAndBytesOfTheScoredText) {
  TemporaryDir dir;
  const std::string text = " The caf\u00e9 is\n\n  old .\n";  // 5 words, 23 bytes
  dir.write("wikitext.test.txt", text);
  ASSERT_EQ(text.size(), 23u);
  FakeLanguageModel model("qwen2-mini");
  model.nll_of = [](size_t) { return 20.0; };
  const TaskResult r = run_task("wikitext", model, perplexity_options(dir.path()), {});
  EXPECT_EQ(r.rows, 1);
  EXPECT_NEAR(r.metrics.at("word_ppl").value, std::exp(20.0 / 5), 1e-9);
  EXPECT_NEAR(r.metrics.at("bits_per_byte").value, 20.0 / std::numbers::ln2 / 23, 1e-12);
  const double tokens = static_cast<double>(model.tokenizer().encode(text).size());
  EXPECT_NEAR(r.metrics.at("ppl").value, std::exp(20.0 / (tokens - 1)), 1e-9);
  EXPECT_EQ(r.checks.at("window"), tokens);
  EXPECT_EQ(r.checks.at("tokens_left_out"), 0);
  EXPECT_TRUE(std::isnan(r.metrics.at("ppl").stderr_));  // one window says nothing of its error
}

TEST(Perplexity, WordsThatSpanWindowsCountOnce) {
  TemporaryDir dir;
  std::string text;
  for (int i = 0; i < 400; ++i) text += "Varhurstmere Tollinbrook ";
  dir.write("wikitext.test.txt", text);
  FakeLanguageModel model("qwen2-mini");
  model.nll_of = [](size_t) { return 10.0; };
  const size_t tokens = model.tokenizer().encode(text).size();
  // Windows of 5 cut words; all tokens but the tail are scored.
  const TaskResult r = run_task("wikitext", model, perplexity_options(dir.path(), 5), {});
  const double nll = 10.0 * static_cast<double>(tokens / 5);
  EXPECT_NEAR(nll / std::log(r.metrics.at("word_ppl").value), 800, 1.5);
  EXPECT_EQ(r.checks.at("tokens_left_out"), static_cast<double>(tokens % 5));
}

TEST(Perplexity, WindowIs2048OrWhatTheModelAllows) {
  const auto dir = testing::mini_dir() / "data";
  FakeLanguageModel small("llama-mini", 1024), large("llama-mini", 8192);
  EXPECT_EQ(run_task("wikitext", small, perplexity_options(dir), {}).checks.at("window"), 1024);
  EXPECT_EQ(run_task("wikitext", large, perplexity_options(dir), {}).checks.at("window"), 2048);
  EXPECT_THROW(run_task("wikitext", small, perplexity_options(dir, 1025), {}), UsageError);
}

TEST(Perplexity, ErrorComesFromTheWindows) {
  FakeLanguageModel model;
  model.nll_of = [](size_t w) { return w % 2 ? 1000.0 : 1100.0; };
  const TaskResult r =
      run_task("wikitext", model, perplexity_options(testing::mini_dir() / "data", 512, 10), {});
  // Ten windows at ±50: sd of the mean of NLL per token = sqrt(10·50²/9/10)/511.
  const double error = std::sqrt(10 * 2500.0 / 9 / 10) / 511, ppl = std::exp(1050.0 / 511);
  EXPECT_NEAR(r.metrics.at("ppl").stderr_, ppl * error, 1e-9);
  EXPECT_NEAR(r.metrics.at("ppl").ci_high, ppl * std::exp(2.262157 * error), 2e-3);
  EXPECT_GT(r.latency_ms.p99, 0);
  EXPECT_GT(r.prompt_tokens_per_s, 0);
}

TEST(Perplexity, TextTooShortIsAnError) {
  TemporaryDir dir;
  dir.write("wikitext.test.txt", "");
  FakeLanguageModel model;
  EXPECT_THAT(error_of([&] { run_task("wikitext", model, perplexity_options(dir.path()), {}); }),
              HasSubstr("too short"));
}

TEST(Tasks, WrongOptionsAreUsageErrors) {
  FakeLanguageModel model;
  TaskOptions options = perplexity_options(testing::mini_dir() / "data");
  EXPECT_THROW(run_task("squad", model, options, {}), UsageError);
  EXPECT_THAT(error_of([&] { run_task("squad", model, options, {}); }),
              HasSubstr("boolq, msmarco, gsm8k, wikitext"));
  options.shots = 9;
  EXPECT_THROW(run_task("boolq", model, options, {}), UsageError);
  options.shots = 0;
  options.limit = -1;
  EXPECT_THROW(run_task("boolq", model, options, {}), UsageError);
  options.limit = 1;
  options.window = 1;
  EXPECT_THROW(run_task("wikitext", model, options, {}), UsageError);
}

TEST(Tasks, PrimaryMetricsExist) {
  for (const TaskInfo& task : all_tasks()) {
    FakeLanguageModel model;
    model.answer_of = [](const std::string&) {
      return GenerateResult{{1, 2}, "1", FinishReason::kEndToken, 1, 2};
    };
    TaskOptions options = perplexity_options(testing::mini_dir() / "data", 128, 3);
    const TaskResult r = run_task(std::string(task.name), model, options, {});
    EXPECT_TRUE(r.metrics.contains(r.primary)) << task.name;
    const TaskResult back = task_result_from_json(parse_json(to_json(r).dump(), "x"), "x");
    EXPECT_EQ(to_json(back), to_json(r));
    EXPECT_GT(r.seconds, 0);
    EXPECT_EQ(r.samples.size(), static_cast<size_t>(r.rows));
  }
}

}  // namespace
}  // namespace nibble
