#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "eval/statistics.h"
#include "eval/task.h"
#include "fake_language_model.h"

namespace nibble {
namespace {

using testing::error_of;
using testing::FakeLanguageModel;
using ::testing::HasSubstr;
using testing::TemporaryDir;

constexpr const char* kRows =
    R"({"question": "is it old", "passage": "The mill is old.", "answer": true}
{"question": "is it new", "passage": "The mill is old.", "answer": false}
{"question": "is it red", "passage": "The mill is red.", "label": 1}
{"question": "is it tall", "passage": "The tower is tall.", "answer": true}
)";

TaskOptions boolq_options(const TemporaryDir& dir) {
  TaskOptions options;
  options.data_dir = dir.path();
  return options;
}

TEST(BoolQ, PromptChoicesAndScore) {
  TemporaryDir dir;
  dir.write("boolq.validation.jsonl", kRows);
  FakeLanguageModel model;
  // Says yes to old and red (right), no to new (right), no to tall (wrong).
  model.loglik_of = [](const std::string& context, const std::string& choice) {
    const bool yes = context.ends_with("old?\nAnswer:") || context.ends_with("red?\nAnswer:");
    return (choice == " yes") == yes ? -0.5 : -2.0;
  };
  const TaskResult r = run_task("boolq", model, boolq_options(dir), {});
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[0].context),
            "The mill is old.\nQuestion: is it old?\nAnswer:");
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[0].continuation), " no");
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[1].continuation), " yes");
  EXPECT_EQ(model.loglik_requests[0].context.front(), model.tokenizer().start_token());
  EXPECT_EQ(r.task, "boolq");
  EXPECT_EQ(r.split, "validation");
  EXPECT_EQ(r.data_sha256.size(), 64u);
  EXPECT_EQ(r.rows, 4);
  EXPECT_EQ(r.shots, 0);
  EXPECT_EQ(r.primary, "accuracy");
  EXPECT_TRUE(r.higher_is_better);
  const Metric& accuracy = r.metrics.at("accuracy");
  EXPECT_DOUBLE_EQ(accuracy.value, 0.75);
  EXPECT_DOUBLE_EQ(accuracy.stderr_, std::sqrt(.75 * .25 / 3));
  EXPECT_LT(accuracy.ci_low, 0.5);
  EXPECT_DOUBLE_EQ(r.checks.at("label_share_yes"), 0.75);
  EXPECT_DOUBLE_EQ(r.checks.at("answer_share_yes"), 0.5);
  EXPECT_DOUBLE_EQ(r.checks.at("majority_accuracy"), 0.75);
  EXPECT_DOUBLE_EQ(r.checks.at("top_answer_share"), 0.5);
  EXPECT_EQ(r.checks.at("truncated_prompts"), 0);
  EXPECT_EQ(r.checks.at("not_finite"), 0);
  // Gold choices of one token each: three at −0.5, one at −2.
  EXPECT_NEAR(r.metrics.at("gold_ppl").value, std::exp(3.5 / 4), 1e-12);
  EXPECT_EQ(r.latency_ms.mean, 5);  // the fake's 2 ms + 3 ms
  EXPECT_GT(r.prompt_tokens_per_s, 0);
  EXPECT_EQ(r.output_tokens_per_s, 0);
  EXPECT_EQ(r.samples[3].key, "3");
  EXPECT_EQ(r.samples[3].cluster, "3");
  EXPECT_EQ(r.samples[3].prediction, "no");
  EXPECT_EQ(r.samples[3].gold, "yes");
  EXPECT_EQ(r.samples[3].score, 0);
  EXPECT_EQ(r.samples[3].detail["loglik_yes"], -2.0);
}

TEST(BoolQ, LimitTakesTheFirstRowsAndProgressCountsThem) {
  TemporaryDir dir;
  dir.write("boolq/dev.jsonl", kRows);
  FakeLanguageModel model;
  TaskOptions options = boolq_options(dir);
  options.limit = 2;
  options.split = "dev";
  size_t calls = 0, last = 0, total = 0;
  const TaskResult r = run_task("boolq", model, options, [&](size_t done, size_t all) {
    ++calls;
    last = done;
    total = all;
  });
  EXPECT_EQ(r.rows, 2);
  EXPECT_EQ(r.split, "validation");
  EXPECT_EQ(calls, 4u);
  EXPECT_EQ(last, total);
  options.limit = 99;
  EXPECT_EQ(run_task("boolq", model, options, {}).rows, 4);
}

TEST(BoolQ, ProgressMayCancel) {
  TemporaryDir dir;
  dir.write("boolq/dev.jsonl", kRows);
  FakeLanguageModel model;
  EXPECT_EQ(error_of([&] {
              run_task("boolq", model, boolq_options(dir), [](size_t, size_t) { fail("cancelled"); });
            }),
            "cancelled");
}

TEST(BoolQ, ExamplesComeFromTrainAndNeverHoldTheRow) {
  TemporaryDir dir;
  dir.write("boolq.train.jsonl", kRows);
  FakeLanguageModel model;
  TaskOptions options = boolq_options(dir);
  options.split = "train";
  options.shots = 3;  // all the others, in a drawn order
  const TaskResult r = run_task("boolq", model, options, {});
  EXPECT_EQ(r.shots, 3);
  for (const Sample& sample : r.samples) {
    const size_t own = sample.prompt.rfind("Question:");
    const std::string question = sample.prompt.substr(own);
    EXPECT_EQ(sample.prompt.find(question.substr(0, question.find('?'))), own) << sample.prompt;
    size_t blank_lines = 0;
    for (size_t at = 0; (at = sample.prompt.find("\n\n", at)) != std::string::npos; ++at) ++blank_lines;
    EXPECT_EQ(blank_lines, 3u);
  }
  EXPECT_THAT(r.samples[0].prompt, HasSubstr("The tower is tall.\nQuestion: is it tall?\nAnswer: yes\n\n"));
  EXPECT_THAT(r.samples[0].prompt, HasSubstr("The mill is old.\nQuestion: is it new?\nAnswer: no\n\n"));
  options.shots = 4;
  EXPECT_THAT(error_of([&] { run_task("boolq", model, options, {}); }), HasSubstr("use fewer shots"));
}

TEST(BoolQ, TheSameExamplesButForARowThatIsOne) {
  TemporaryDir dir;
  dir.write("boolq.train.jsonl", kRows);
  dir.write("boolq.validation.jsonl", kRows);
  FakeLanguageModel model;
  TaskOptions options = boolq_options(dir);
  options.shots = 1;
  options.same_examples = true;
  const TaskResult r = run_task("boolq", model, options, {});
  EXPECT_EQ(r.split, "validation, same examples");
  std::map<std::string, int> heads;
  for (const Sample& sample : r.samples) {
    EXPECT_EQ(sample.prompt.find(sample.prompt.substr(sample.prompt.rfind("Question:"))),
              sample.prompt.rfind("Question:"));
    ++heads[sample.prompt.substr(0, sample.prompt.find("\n\n"))];
  }
  EXPECT_EQ(heads.size(), 2u);  // the example, and what stands before it itself
}

TEST(BoolQ, ARowThatAlsoStandsInTrainIsNoExampleOfItself) {
  TemporaryDir dir;
  dir.write("boolq.train.jsonl", kRows);
  dir.write("boolq.validation.jsonl", kRows);
  FakeLanguageModel model;
  TaskOptions options = boolq_options(dir);
  options.shots = 4;
  EXPECT_THAT(error_of([&] { run_task("boolq", model, options, {}); }), HasSubstr("3 other rows"));
}

TEST(BoolQ, AModelOfNaNsIsWrongAndSaidToBe) {
  TemporaryDir dir;
  dir.write("boolq.validation.jsonl", kRows);
  FakeLanguageModel model;
  model.loglik_of = [](const std::string&, const std::string&) { return std::nan(""); };
  const TaskResult r = run_task("boolq", model, boolq_options(dir), {});
  EXPECT_EQ(r.metrics.at("accuracy").value, 0);
  EXPECT_EQ(r.checks.at("not_finite"), 4);
  EXPECT_EQ(r.checks.at("top_answer_share"), 1);
  EXPECT_TRUE(std::isnan(r.metrics.at("gold_ppl").value));
  EXPECT_NO_THROW(to_json(r).dump());
}

TEST(BoolQ, LongPromptsAreCutAndCounted) {
  TemporaryDir dir;
  dir.write("boolq.validation.jsonl", kRows);
  FakeLanguageModel model("llama-mini", 12);
  const TaskResult r = run_task("boolq", model, boolq_options(dir), {});
  EXPECT_EQ(r.checks.at("truncated_prompts"), 4);
  for (const LoglikRequest& request : model.loglik_requests) {
    EXPECT_EQ(request.context.size() + request.continuation.size(), 12u);
    EXPECT_EQ(request.context.front(), model.tokenizer().start_token());
  }
}

TEST(BoolQ, MalformedRowsNameTheLine) {
  FakeLanguageModel model;
  const auto message = [&](const std::string& row) {
    TemporaryDir dir;
    dir.write("boolq.validation.jsonl", std::string(kRows) + row + "\n");
    return error_of([&] { run_task("boolq", model, boolq_options(dir), {}); });
  };
  EXPECT_THAT(message(R"({"question": "q", "answer": true})"),
              HasSubstr("jsonl line 5: 'passage' is missing"));
  EXPECT_THAT(message(R"({"question": 3, "passage": "p", "answer": true})"), HasSubstr("line 5: 'question'"));
  EXPECT_THAT(message(R"({"question": "q", "passage": "p", "answer": "yes"})"),
              HasSubstr("line 5: 'answer'"));
  EXPECT_THAT(message(R"({"question": "q", "passage": "p", "label": 2})"), HasSubstr("line 5: 'label' is 2"));
  EXPECT_THAT(message(R"({"question": "q", "passage": "p"})"), HasSubstr("line 5: 'answer' is missing"));
  EXPECT_THAT(message("{"), HasSubstr("line 5"));
}

// Scores of the mini models, given as the golden file has them, must come out in every sample.
TEST(BoolQ, GoldenLogLikelihoodsGiveTheirAccuracy) {
  for (const char* name : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const Json golden = read_json_file(testing::mini_dir() / "golden" / (std::string(name) + ".json"));
    const Json& pairs = golden["boolq_loglik_no_yes_first20"];
    FakeLanguageModel model(name);
    size_t call = 0;
    model.loglik_of = [&](const std::string&, const std::string& choice) {
      const size_t i = call++;
      if (i == 0) return 0.0;  // warm-up
      EXPECT_EQ(choice, (i - 1) % 2 ? " yes" : " no");
      return pairs[(i - 1) / 2][(i - 1) % 2].get<double>();
    };
    TaskOptions options;
    options.data_dir = testing::mini_dir() / "data";
    options.limit = 20;
    const TaskResult r = run_task("boolq", model, options, {});
    const auto rows = read_json_lines(testing::mini_dir() / "data" / "boolq.validation.jsonl");
    double right = 0;
    for (size_t i = 0; i < 20; ++i) right += (pairs[i][1] > pairs[i][0]) == rows[i]["answer"].get<bool>();
    EXPECT_DOUBLE_EQ(r.metrics.at("accuracy").value, right / 20) << name;
    EXPECT_GT(right, 10);
  }
}

}  // namespace
}  // namespace nibble
