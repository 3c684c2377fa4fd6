#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "eval/task.h"
#include "fake_language_model.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using testing::FakeLanguageModel;
using ::testing::HasSubstr;
using testing::TemporaryDir;

std::string row(const std::string& question, const std::string& answer) {
  return Json{{"question", question}, {"answer", answer}}.dump() + "\n";
}

TaskOptions gsm8k_options(const TemporaryDir& dir, int shots = 0) {
  TaskOptions options;
  options.data_dir = dir.path();
  options.shots = shots;
  return options;
}

GenerateResult answer(const std::string& text, FinishReason finish = FinishReason::kStopString,
                      size_t tokens = 5) {
  return {std::vector<int32_t>(tokens, 1), text, finish, 10, 10 + 2.0 * static_cast<double>(tokens - 1)};
}

TEST(Gsm8k, PromptLimitAndStopStrings) {
  TemporaryDir dir;
  dir.write("gsm8k.test.jsonl", row("How many?", "2 + 2 = 4\n#### 4"));
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) { return answer(" 4\n#### 4"); };
  const TaskResult r = run_task("gsm8k", model, gsm8k_options(dir), {});
  ASSERT_EQ(model.generate_requests.size(), 1u);
  const GenerateRequest& request = model.generate_requests[0];
  EXPECT_EQ(model.tokenizer().decode(request.prompt), "Question: How many?\nAnswer:");
  EXPECT_EQ(request.prompt.front(), model.tokenizer().start_token());
  EXPECT_EQ(request.max_new_tokens, 256);
  EXPECT_THAT(request.stop, ::testing::Contains("Question:"));
  EXPECT_EQ(model.loglik_requests.size(), 0u);  // the gold answer is scored behind the same prompt
  EXPECT_EQ(model.tokenizer().decode(request.gold), " 2 + 2 = 4\n#### 4");
  EXPECT_EQ(r.primary, "exact_match_flexible");
  EXPECT_EQ(r.split, "test");
  EXPECT_EQ(r.metrics.at("exact_match_flexible").value, 1);
  EXPECT_EQ(r.metrics.at("exact_match_strict").value, 1);
  const double nll = r.samples[0].detail["gold_nll"], tokens = r.samples[0].detail["gold_tokens"];
  EXPECT_EQ(tokens, static_cast<double>(request.gold.size()));
  EXPECT_DOUBLE_EQ(r.metrics.at("gold_ppl").value, std::exp(nll / tokens));
}

TEST(Gsm8k, OddAnswersAreSetApart) {
  TemporaryDir dir;
  const std::vector<std::pair<std::string, GenerateResult>> cases = {
      {"1234.50", answer(" It costs $1,234.50.", FinishReason::kEndToken)},  // flexible only
      {"42", answer(" so\n#### 42.")},                                       // both
      {"42", answer(" so\n####42")},                                         // flexible only
      {"-7", answer(" #### -7")},                                            // both
      {"5", answer(" no idea")},                                             // no match
      {"5", answer("  \n", FinishReason::kEndToken, 1)},                     // empty
      {"5", answer(" 1 2 3 4", FinishReason::kLength, 256)},                 // cut
      {"5", answer(" #### 6")},                                              // wrong arithmetic
      {"5", answer(" #### 5 and then 7")},                                   // strict only
  };
  std::string file;
  for (size_t i = 0; i < cases.size(); ++i)
    file += row("q" + std::to_string(i) + "?", "x\n#### " + cases[i].first);
  dir.write("gsm8k/test.jsonl", file);
  FakeLanguageModel model;
  model.answer_of = [&](const std::string& prompt) {
    return cases[static_cast<size_t>(prompt[prompt.rfind("Question: q") + 11] - '0')].second;
  };
  const TaskResult r = run_task("gsm8k", model, gsm8k_options(dir), {});
  std::vector<int> flexible, strict;
  for (const Sample& sample : r.samples) {
    flexible.push_back(static_cast<int>(sample.score));
    strict.push_back(sample.detail["strict"].get<bool>());
  }
  EXPECT_THAT(flexible, ElementsAre(1, 1, 1, 1, 0, 0, 0, 0, 0));
  EXPECT_THAT(strict, ElementsAre(0, 1, 0, 1, 0, 0, 0, 0, 1));
  EXPECT_DOUBLE_EQ(r.metrics.at("exact_match_flexible").value, 4.0 / 9);
  EXPECT_DOUBLE_EQ(r.metrics.at("exact_match_strict").value, 3.0 / 9);
  EXPECT_EQ(r.checks.at("strict_no_match"), 5);
  EXPECT_EQ(r.checks.at("flexible_no_match"), 2);
  EXPECT_EQ(r.checks.at("truncated_answers"), 1);
  EXPECT_EQ(r.checks.at("empty_answers"), 1);
  EXPECT_EQ(r.checks.at("wrong_but_complete"), 2);  // #### 6, and the one whose last number is another
  EXPECT_DOUBLE_EQ(r.checks.at("top_answer_share"), 2.0 / 9);
  EXPECT_EQ(r.samples[6].detail["finish"], "length");
  EXPECT_EQ(r.samples[0].prediction, "1234.50");
  EXPECT_EQ(r.samples[6].tokens, 256);
}

TEST(Gsm8k, LatencyAndThroughput) {
  TemporaryDir dir;
  dir.write("gsm8k.test.jsonl", row("a?", "#### 1") + row("b?", "#### 1"));
  FakeLanguageModel model;
  model.answer_of = [](const std::string& prompt) {
    const bool a = prompt.ends_with("a?\nAnswer:");
    GenerateResult result{std::vector<int32_t>(a ? 11u : 1u), "1", FinishReason::kEndToken, a ? 20.0 : 40.0,
                          a ? 120.0 : 40.0};
    return result;
  };
  const TaskResult r = run_task("gsm8k", model, gsm8k_options(dir), {});
  EXPECT_EQ(r.latency_ms.mean, 80);
  EXPECT_EQ(r.first_token_ms.p50, 30);
  EXPECT_EQ(r.per_token_ms.mean, 10);  // of the one answer that has a second token
  EXPECT_GT(r.output_tokens_per_s, 0);
  EXPECT_GT(r.prompt_tokens_per_s, 0);
}

TEST(Gsm8k, FiveExamplesByDefaultDrawnPerRow) {
  TaskOptions options;
  options.data_dir = testing::mini_dir() / "data";
  options.limit = 12;
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) { return answer(" #### 1"); };
  const TaskResult r = run_task("gsm8k", model, options, {});
  EXPECT_EQ(r.shots, 5);
  std::set<std::string> heads;
  for (const Sample& sample : r.samples) {
    size_t questions = 0, blank = 0;
    for (size_t at = 0; (at = sample.prompt.find("Question: ", at)) != std::string::npos; ++at) ++questions;
    for (size_t at = 0; (at = sample.prompt.find("\n\nQuestion: ", at)) != std::string::npos; ++at) ++blank;
    EXPECT_EQ(questions, 6u);
    EXPECT_EQ(blank, 5u);
    EXPECT_TRUE(sample.prompt.ends_with("\nAnswer:"));
    heads.insert(sample.prompt.substr(0, sample.prompt.find("\n\n")));
  }
  EXPECT_GT(heads.size(), 8u);
  // A shorter run has the same prompts; another seed has others.
  options.limit = 3;
  const TaskResult shorter = run_task("gsm8k", model, options, {});
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(shorter.samples[i].prompt, r.samples[i].prompt);
  options.seed = 1;
  EXPECT_NE(run_task("gsm8k", model, options, {}).samples[0].prompt, r.samples[0].prompt);
}

TEST(Gsm8k, TheSameExamplesBeforeEveryRowWhenAskedFor) {
  TaskOptions options;
  options.data_dir = testing::mini_dir() / "data";
  options.limit = 6;
  options.same_examples = true;
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) {
    GenerateResult result = answer(" #### 1");
    result.reused_tokens = 9;
    return result;
  };
  const TaskResult r = run_task("gsm8k", model, options, {});
  EXPECT_EQ(r.split, "test, same examples");
  EXPECT_EQ(r.checks.at("reused_prompt_tokens"), 54);
  std::set<std::string> heads;
  for (const Sample& sample : r.samples) heads.insert(sample.prompt.substr(0, sample.prompt.rfind("\n\n")));
  EXPECT_EQ(heads.size(), 1u);
  options.seed = 1;
  EXPECT_NE(run_task("gsm8k", model, options, {}).samples[0].prompt, r.samples[0].prompt);
  options.shots = 0;
  EXPECT_EQ(run_task("gsm8k", model, options, {}).split, "test");
}

TEST(Gsm8k, RowsOfTrainAndMixedAreNeverTheirOwnExample) {
  TemporaryDir dir;
  // Two train rows with the same question: neither may stand before the other.
  dir.write("gsm8k.train.jsonl", row("same?", "#### 1") + row("same?", "#### 1") + row("other?", "#### 2"));
  dir.write("gsm8k.test.jsonl", row("test?", "#### 3"));
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) { return answer(" #### 1"); };
  TaskOptions options = gsm8k_options(dir, 1);
  options.split = "mixed";
  const TaskResult r = run_task("gsm8k", model, options, {});
  EXPECT_EQ(r.split, "mixed (contaminated)");
  ASSERT_EQ(r.samples.size(), 4u);
  EXPECT_THAT(r.samples[1].prompt, HasSubstr("Question: other?\nAnswer: #### 2\n\nQuestion: same?\nAnswer:"));
  EXPECT_THAT(r.samples[2].prompt, HasSubstr("Question: other?"));
  EXPECT_THAT(r.samples[3].prompt, HasSubstr("Question: same?"));
}

TEST(Gsm8k, LongPromptsKeepTheirEndAndLeaveRoomToAnswer) {
  TaskOptions options;
  options.data_dir = testing::mini_dir() / "data";
  options.limit = 4;
  options.shots = 8;
  FakeLanguageModel model("llama-mini", 600);
  model.answer_of = [](const std::string& prompt) {
    EXPECT_TRUE(prompt.ends_with("\nAnswer:"));
    return answer(" #### 1");
  };
  const TaskResult r = run_task("gsm8k", model, options, {});
  EXPECT_EQ(r.checks.at("truncated_prompts"), 4);
  for (const GenerateRequest& request : model.generate_requests) {
    EXPECT_EQ(request.prompt.size(), 600u - 256u);
    EXPECT_EQ(request.prompt.front(), model.tokenizer().start_token());
  }
}

TEST(Gsm8k, HalfACharacterInTheAnswerIsReplaced) {
  TemporaryDir dir;
  dir.write("gsm8k.test.jsonl", row("a?", "#### 1"));
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) { return answer("1 \xE2\x82", FinishReason::kLength); };
  EXPECT_EQ(run_task("gsm8k", model, gsm8k_options(dir), {}).samples[0].output, "1 \uFFFD\uFFFD");
}

TEST(Gsm8k, ProgressCoversEveryRow) {
  TemporaryDir dir;
  dir.write("gsm8k.test.jsonl", row("a?", "#### 1") + row("b?", "#### 1"));
  FakeLanguageModel model;
  model.answer_of = [](const std::string&) { return answer("1"); };
  std::vector<size_t> done;
  run_task("gsm8k", model, gsm8k_options(dir), [&](size_t d, size_t total) {
    done.push_back(d);
    EXPECT_EQ(total, 2u);
  });
  EXPECT_THAT(done, ElementsAre(1, 2));
}

TEST(Gsm8k, MalformedRowsNameTheLine) {
  TemporaryDir dir;
  FakeLanguageModel model;
  dir.write("gsm8k.test.jsonl", row("a?", "#### 1") + row("b?", "just 5"));
  EXPECT_THAT(error_of([&] { run_task("gsm8k", model, gsm8k_options(dir), {}); }),
              HasSubstr("line 2: 'answer' does not end in '#### NUMBER'"));
  dir.write("gsm8k.test.jsonl", "{\"question\": \"a\"}");
  EXPECT_THAT(error_of([&] { run_task("gsm8k", model, gsm8k_options(dir), {}); }),
              HasSubstr("line 1: 'answer' is missing"));
}

TEST(Gsm8k, ReadsThePublicFiles) {
  const auto dir = testing::shared_dir() / "data";
  NIBBLE_NEEDS(dir / "gsm8k" / "test.jsonl");
  TaskOptions options;
  options.data_dir = dir;
  options.shots = 1;
  FakeLanguageModel model("llama-mini", 2048);
  model.answer_of = [](const std::string&) { return answer(" #### 18"); };
  const TaskResult r = run_task("gsm8k", model, options, {});
  EXPECT_EQ(r.rows, 800);
  EXPECT_EQ(r.samples[0].gold, "18");
  EXPECT_EQ(r.samples[0].score, 1);
}

}  // namespace
}  // namespace nibble
