// Real models against golden values made with transformers from the same files; skipped where these are not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "base/file.h"
#include "base/json.h"
#include "eval/encoding.h"
#include "eval/engine.h"
#include "eval/sequence_logits.h"
#include "eval/windows.h"
#include "io/safetensors.h"
#include "test_data.h"

namespace nibble {
namespace {

struct RealModel {
  std::string title;
  const char* golden;
  const char* file;
  size_t windows;  // of WikiText; a larger model's take minutes
};
void PrintTo(const RealModel& model, std::ostream* out) { *out << model.title; }

class SharedModel : public ::testing::TestWithParam<RealModel> {
 protected:
  void SetUp() override {
    file_ = testing::fetched_models_dir() / GetParam().file;
    golden_file_ = testing::shared_dir() / "golden" / (std::string(GetParam().golden) + ".json");
    NIBBLE_NEEDS(file_);
    NIBBLE_NEEDS(golden_file_);
    golden_ = read_json_file(golden_file_);
    const LoadedModel loaded = load_model_and_tokenizer(file_, GgufDType::kF32);
    model_ = loaded.model;
    tokenizer_ = loaded.tokenizer;
  }
  Engine engine() { return Engine(model_, tokenizer_, {.precision = Precision::exact()}, pool_); }

  std::filesystem::path file_, golden_file_;
  Json golden_;
  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  ThreadPool pool_{available_threads()};
};

TEST_P(SharedModel, PromptsIdsLogitsAndGreedyText) {
  const auto logits_file =
      open_safetensors(std::filesystem::path(golden_file_).replace_extension(".logits.safetensors"));
  Engine engine = this->engine();
  const Json& prompts = golden_.at("prompts");
  for (size_t p = 0; p < prompts.size(); ++p) {
    const auto ids = tokenizer_->encode(prompts[p].at("prompt").get<std::string>());
    ASSERT_EQ(ids, prompts[p].at("ids").get<std::vector<int32_t>>());

    const auto expected = to_float(logits_file.tensors.at(fmt::format("logits_last_{}", p)));
    const size_t vocab = static_cast<size_t>(model_->config.vocab_size);
    ASSERT_EQ(expected.size(), vocab);
    const auto logits = sequence_logits(model_, ids, Precision::exact(), pool_);
    const float* last = logits.data() + (ids.size() - 1) * vocab;
    double worst = 0;
    for (size_t i = 0; i < vocab; ++i)
      worst = std::max(worst, std::fabs(double{last[i]} - double{expected[i]}));
    EXPECT_LE(worst, 2e-3) << "prompt " << p;

    auto golden = prompts[p].at("greedy").get<std::vector<int32_t>>();
    const auto& ends = model_->config.end_tokens;
    const bool ended = std::find(ends.begin(), ends.end(), golden.back()) != ends.end();
    const GenerateRequest request{ids, 32, {}};
    const GenerateResult result = engine.generate(std::span(&request, 1), {})[0];
    EXPECT_EQ(result.finish, ended ? FinishReason::kEndToken : FinishReason::kLength);
    if (ended) golden.pop_back();
    EXPECT_EQ(result.tokens, golden) << "prompt " << p;
    EXPECT_EQ(result.text, tokenizer_->decode(golden));
    if (!ended) {
      EXPECT_EQ(result.text, prompts[p].at("text").get<std::string>());
    }
  }
}

TEST_P(SharedModel, LogLikelihoodsOfBoolQ) {
  const auto data = testing::shared_dir() / "data/boolq/dev.jsonl";
  NIBBLE_NEEDS(data);
  const Json& expected = golden_.at("boolq_loglik_no_yes_first8");
  std::vector<LoglikRequest> requests;
  for (const Json& row : read_json_lines(data)) {
    const std::string prompt = fmt::format("{}\nQuestion: {}?\nAnswer:", row.at("passage").get<std::string>(),
                                           row.at("question").get<std::string>());
    for (const char* choice : {" no", " yes"})
      requests.push_back(encode_pair(*tokenizer_, prompt, choice, model_->config.max_context).request);
    if (requests.size() == 2 * expected.size()) break;
  }
  const auto results = engine().loglik(requests, {});
  for (size_t i = 0; i < results.size(); ++i)
    EXPECT_NEAR(results[i].loglik, expected[i / 2][i % 2].get<double>(), 1e-3) << "row " << i / 2;
}

TEST_P(SharedModel, PerplexityOfWikiText) {
  const auto data = testing::shared_dir() / "data/wikitext2/wiki.test.raw";
  NIBBLE_NEEDS(data);
  const Json& expected = golden_.at("wikitext2_test_first8_windows_of_512");
  const std::string text = read_file(data).substr(0, 100000);  // more than eight windows
  const size_t count = GetParam().windows;
  const auto windows = cut_windows(tokenizer_->encode(text), 512, static_cast<int64_t>(count));
  ASSERT_EQ(windows.size(), count);
  const auto first = expected.at("first_ids").get<std::vector<int32_t>>();
  ASSERT_TRUE(std::equal(first.begin(), first.end(), windows.front().begin()));
  const auto nll = engine().window_nll(windows, {});
  double sum = 0;
  for (size_t i = 0; i < nll.size(); ++i) {
    const double golden = expected.at("nll_sum_per_window")[i].get<double>();
    EXPECT_NEAR(nll[i], golden, 1e-4 * golden) << "window " << i;
    sum += nll[i];
  }
  if (count < expected.at("nll_sum_per_window").size()) return;
  const double ppl = expected.at("ppl").get<double>();
  EXPECT_NEAR(std::exp(sum / (static_cast<double>(count) * 511)), ppl, 1e-4 * ppl);
}

INSTANTIATE_TEST_SUITE_P(Models, SharedModel,
                         ::testing::Values(RealModel{"SmolLM2", "smollm2-135m-instruct.q4_1",
                                                     "SmolLM2-135M-Instruct.Q4_1.gguf", 8},
                                           RealModel{"Qwen2_5_Coder", "qwen2.5-coder-0.5b-instruct.q4_k_m",
                                                     "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", 4}),
                         [](const auto& parameter) { return parameter.param.title; });

// The directory that ../shared/models/to_hf.py GGUF OUT --tie makes of Qwen2.5-Coder-0.5B; its place in
// NIBBLE_QWEN_HF.
TEST(SharedBaseline, PerplexityOfQwenByTheRuleOfCompare) {
  const char* directory = std::getenv("NIBBLE_QWEN_HF");
  if (!directory) GTEST_SKIP() << "NIBBLE_QWEN_HF does not name the directory made by to_hf.py";
  const auto data = testing::shared_dir() / "data/wikitext2/wiki.test.raw";
  NIBBLE_NEEDS(data);
  const LoadedModel loaded = load_model_and_tokenizer(directory);
  const auto& tokenizer = *loaded.tokenizer;
  const auto stream =
      tokenizer.encode(read_file(data).substr(0, 100000), false);  // more than sixteen windows
  const auto [first, last] = scored_positions(512);
  std::vector<LoglikRequest> requests;
  for (const auto& window : comparison_windows(stream, 512, 16, tokenizer.start_token())) {
    const auto split = window.begin() + static_cast<std::ptrdiff_t>(first) + 1;
    requests.push_back({{window.begin(), split}, {split, window.end()}});
    ASSERT_EQ(requests.back().continuation.size(), last - first);
  }
  ASSERT_EQ(requests.size(), 16u);
  ThreadPool pool(available_threads());
  const auto loglik = [&](const Precision& precision, size_t windows) {
    Engine engine(loaded.model, loaded.tokenizer, {.precision = precision}, pool);
    return engine.loglik(std::span(requests).first(windows), {});
  };
  const auto perplexity = [](std::span<const LoglikResult> windows) {
    double sum = 0;
    for (const LoglikResult& window : windows) sum -= window.loglik;
    return std::exp(sum / (static_cast<double>(windows.size()) * 255));
  };
  const auto results = loglik({}, 16);
  EXPECT_NEAR(perplexity(results), 41.82, 0.05);
  // Float32 throughout, whose logits are held against golden values above, gives the same on a part of them.
  EXPECT_NEAR(perplexity(loglik(Precision::exact(), 4)) / perplexity(std::span(results).first(4)), 1,
              0.05 / 41.82);
}

}  // namespace
}  // namespace nibble
