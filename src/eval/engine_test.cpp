// The engine on the mini models, against their golden values (float32, transformers).
#include "eval/engine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "eval/encoding.h"
#include "eval/windows.h"
#include "test_data.h"

namespace nibble {
namespace {

class MiniEngine : public ::testing::TestWithParam<std::string> {
 protected:
  Engine engine(EngineOptions options = {}) { return Engine(model_, tokenizer_, options, pool_); }
  static EngineOptions exact(int slots = 8, int batch_tokens = 512) {
    return {.batch_tokens = batch_tokens, .slots = slots, .precision = Precision::exact()};
  }
  std::vector<LoglikRequest> boolq(size_t rows) const {
    std::vector<LoglikRequest> requests;
    for (const Json& row : read_json_lines(testing::mini_dir() / "data/boolq.validation.jsonl")) {
      const std::string prompt =
          fmt::format("{}\nQuestion: {}?\nAnswer:", row.at("passage").get<std::string>(),
                      row.at("question").get<std::string>());
      for (const char* choice : {" no", " yes"})
        requests.push_back(encode_pair(*tokenizer_, prompt, choice, model_->config.max_context).request);
      if (requests.size() == 2 * rows) break;
    }
    return requests;
  }
  std::vector<std::vector<int32_t>> windows(int window, int64_t count) const {
    const std::string text = read_file(testing::mini_dir() / "data/wikitext.test.txt");
    return cut_windows(tokenizer_->encode(text), window, count);
  }

  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / GetParam());
  std::shared_ptr<const Tokenizer> tokenizer_ = std::make_shared<const Tokenizer>(model_->load_tokenizer());
  Json golden_ = read_json_file(testing::mini_dir() / "golden" / (GetParam() + ".json"));
  ThreadPool pool_{2};
};

TEST_P(MiniEngine, LogLikelihoodsOfBoolQ) {
  Engine engine = this->engine(exact());
  const auto results = engine.loglik(boolq(20), {});
  const Json& expected = golden_.at("boolq_loglik_no_yes_first20");
  ASSERT_EQ(results.size(), 2 * expected.size());
  for (size_t i = 0; i < results.size(); ++i)
    EXPECT_NEAR(results[i].loglik, expected[i / 2][i % 2].get<double>(), 1e-3) << "row " << i / 2;
}

TEST_P(MiniEngine, GreedyTextOfThreeShotPrompts) {
  Engine engine = this->engine(exact(4));
  std::vector<GenerateRequest> requests;
  for (const Json& row : golden_.at("gsm8k_3shot_greedy")) {
    GenerateRequest request;
    request.prompt = tokenizer_->encode(row.at("prompt").get<std::string>());
    EXPECT_EQ(request.prompt, row.at("prompt_ids").get<std::vector<int32_t>>());
    request.max_new_tokens = static_cast<int>(row.at("greedy").size());
    requests.push_back(request);
  }
  size_t last_done = 0;
  const auto results = engine.generate(requests, [&](size_t done, size_t total) {
    EXPECT_EQ(total, requests.size());
    EXPECT_GE(done, last_done);
    last_done = done;
  });
  EXPECT_EQ(last_done, requests.size());
  for (size_t i = 0; i < results.size(); ++i) {
    const Json& row = golden_.at("gsm8k_3shot_greedy")[i];
    EXPECT_EQ(results[i].tokens, row.at("greedy").get<std::vector<int32_t>>()) << i;
    EXPECT_EQ(results[i].text, row.at("text").get<std::string>()) << i;
    EXPECT_EQ(results[i].finish, FinishReason::kLength) << i;
    EXPECT_GT(results[i].first_token_ms, 0) << i;
    EXPECT_GE(results[i].total_ms, results[i].first_token_ms) << i;
  }
}

TEST_P(MiniEngine, PerplexityOfWikiText) {
  Engine engine = this->engine(exact());
  const Json& expected = golden_.at("wikitext_first16_windows_of_512");
  const auto nll = engine.window_nll(windows(512, 16), {});
  const auto golden = expected.at("nll_sum_per_window").get<std::vector<double>>();
  ASSERT_EQ(nll.size(), golden.size());
  double sum = 0;
  for (size_t i = 0; i < nll.size(); ++i) {
    EXPECT_NEAR(nll[i], golden[i], 1e-4 * golden[i]) << "window " << i;
    sum += nll[i];
  }
  const double ppl = expected.at("ppl").get<double>();
  EXPECT_NEAR(std::exp(sum / expected.at("predicted_tokens").get<double>()), ppl, 1e-4 * ppl);
}

// The same bits whatever runs beside a sequence and however it is cut into batches.
TEST_P(MiniEngine, NothingDependsOnTheBatch) {
  std::vector<LoglikRequest> requests = boolq(6);
  requests.push_back({requests.back().context, {5, 300, 17, 9}});   // longer ones behind the same context,
  requests.push_back({requests.back().context, {17, 4, 5, 6, 7}});  // the second in the same slot
  requests.push_back({{44}, {3, 2, 1}});
  std::vector<GenerateRequest> prompts;
  for (size_t i = 0; i < 5; ++i)
    prompts.push_back({requests[2 * i].context, static_cast<int>(3 + 4 * i), {}});
  prompts[1].gold = {5, 300, 17, 9, 44, 2, 1, 8, 100, 3, 7};  // longer than what is generated
  prompts[3].gold = {17};
  const auto text = windows(100, 3);
  for (const Precision& precision : {Precision{}, Precision::exact()}) {
    Engine one = engine({.batch_tokens = 1, .slots = 1, .precision = precision});
    Engine odd = engine({.batch_tokens = 37, .slots = 3, .precision = precision});
    Engine many = engine({.batch_tokens = 512, .slots = 8, .precision = precision});
    const auto a = one.loglik(requests, {});
    const auto a_text = one.generate(prompts, {});
    const auto a_nll = one.window_nll(text, {});
    std::vector<GenerateRequest> without = prompts;
    for (GenerateRequest& prompt : without) prompt.gold.clear();
    const auto plain = many.generate(without, {});
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(plain[i].tokens, a_text[i].tokens) << i;
      if (prompts[i].gold.empty()) continue;
      const LoglikRequest same{prompts[i].prompt, prompts[i].gold};
      EXPECT_EQ(a_text[i].gold_loglik, one.loglik(std::span(&same, 1), {})[0].loglik) << i;
    }
    for (Engine* other : {&odd, &many}) {
      const auto b = other->loglik(requests, {});
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].loglik, b[i].loglik) << i;
        EXPECT_EQ(a[i].is_greedy, b[i].is_greedy) << i;
      }
      const auto b_text = other->generate(prompts, {});
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(a_text[i].tokens, b_text[i].tokens) << i;
        EXPECT_EQ(a_text[i].text, b_text[i].text) << i;
        EXPECT_EQ(a_text[i].gold_loglik, b_text[i].gold_loglik) << i;
      }
      EXPECT_EQ(a_nll, other->window_nll(text, {}));
    }
  }
}

// What prompts have in common runs once, and that changes no number.
TEST_P(MiniEngine, PromptsThatBeginTheSameShareThatPart) {
  const auto prefix = windows(60, 1).front();
  std::vector<GenerateRequest> prompts;
  std::vector<LoglikRequest> requests;
  for (int i = 0; i < 7; ++i) {
    std::vector<int32_t> prompt = prefix;
    for (int j = 0; j <= i % 4; ++j) prompt.push_back(20 + 7 * i + j);
    if (i == 6) prompt.resize(33);
    prompts.push_back({prompt, 3 + i, {}, {5, 300, 17}});
    requests.push_back({prompt, {4, 5 + i}});
    requests.push_back({prompt, {9}});
  }
  for (const Precision& precision : {Precision{}, Precision::exact()}) {
    std::vector<GenerateResult> alone;
    std::vector<LoglikResult> alone_logliks;
    for (const GenerateRequest& prompt : prompts) {
      alone.push_back(engine({.precision = precision}).generate(std::span(&prompt, 1), {})[0]);
      EXPECT_EQ(alone.back().reused_tokens, 0);
    }
    for (const LoglikRequest& request : requests)
      alone_logliks.push_back(engine({.precision = precision}).loglik(std::span(&request, 1), {})[0]);
    for (const int slots : {1, 3}) {
      constexpr int kBatch = 16;
      Engine shared = engine({.batch_tokens = kBatch, .slots = slots, .precision = precision});
      const auto together = shared.generate(prompts, {});
      EXPECT_EQ(together[0].reused_tokens, 0);
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(together[i].tokens, alone[i].tokens) << i;
        EXPECT_EQ(together[i].gold_loglik, alone[i].gold_loglik) << i;
        // Two that begin in one batch do not see each other's part of it.
        const int common = i == 6 ? 32 : 60;
        if (i > 0) {
          EXPECT_GE(together[i].reused_tokens, slots == 1 ? common : common - kBatch) << i;
        }
      }
      const auto logliks = shared.loglik(requests, {});
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(logliks[i].loglik, alone_logliks[i].loglik) << i;
        EXPECT_EQ(logliks[i].is_greedy, alone_logliks[i].is_greedy) << i;
      }
    }
  }
}

// A window's likelihood is that of its first token's continuation, and greedy text is greedy.
TEST_P(MiniEngine, TheThreeWaysAgree) {
  Engine engine = this->engine(exact());
  const auto window = windows(60, 1).front();
  const LoglikRequest rest{{window.front()}, {window.begin() + 1, window.end()}};
  EXPECT_NEAR(engine.loglik(std::span(&rest, 1), {})[0].loglik,
              -engine.window_nll(std::span(&window, 1), {})[0], 1e-9);

  const GenerateRequest prompt{window, 12, {}};
  const auto generated = engine.generate(std::span(&prompt, 1), {})[0];
  ASSERT_FALSE(generated.tokens.empty());
  LoglikRequest request{window, generated.tokens};
  EXPECT_TRUE(engine.loglik(std::span(&request, 1), {})[0].is_greedy);
  request.continuation.back() = (request.continuation.back() + 1) % model_->config.vocab_size;
  EXPECT_FALSE(engine.loglik(std::span(&request, 1), {})[0].is_greedy);
}

TEST_P(MiniEngine, StopsAtStringsThatSpanTokensAndAtEndTokens) {
  Engine engine = this->engine(exact());
  const Json& row = golden_.at("gsm8k_3shot_greedy")[0];
  const auto prompt = row.at("prompt_ids").get<std::vector<int32_t>>();
  const std::string text = row.at("text").get<std::string>();
  const auto golden = row.at("greedy").get<std::vector<int32_t>>();
  const std::string stop = text.substr(text.size() / 2, 5);
  const GenerateRequest request{prompt, 40, {"never in there", stop}};
  const auto stopped = engine.generate(std::span(&request, 1), {})[0];
  EXPECT_EQ(stopped.finish, FinishReason::kStopString);
  EXPECT_EQ(stopped.text, text.substr(0, text.find(stop)));
  EXPECT_TRUE(std::equal(stopped.tokens.begin(), stopped.tokens.end(), golden.begin()));

  auto ending = std::make_shared<Model>(open_checkpoint(model_->name()));
  ending->config.end_tokens = {golden[5]};
  const size_t end = static_cast<size_t>(std::find(golden.begin(), golden.end(), golden[5]) - golden.begin());
  Engine with_end(ending, tokenizer_, exact(), pool_);
  const GenerateRequest plain{prompt, 40, {}};
  const auto ended = with_end.generate(std::span(&plain, 1), {})[0];
  EXPECT_EQ(ended.finish, FinishReason::kEndToken);
  EXPECT_EQ(ended.tokens,
            std::vector<int32_t>(golden.begin(), golden.begin() + static_cast<std::ptrdiff_t>(end)));
}

TEST_P(MiniEngine, RefusesWhatDoesNotFitAndWhatIsEmpty) {
  Engine engine = this->engine({.context = 32});
  EXPECT_EQ(engine.max_context(), 32);
  const std::vector<int32_t> ids(30, 5);
  LoglikRequest request{ids, {1, 2, 3}};
  EXPECT_THROW(engine.loglik(std::span(&request, 1), {}), Error);
  request.continuation = {1, 2};
  EXPECT_NO_THROW(engine.loglik(std::span(&request, 1), {}));
  request.continuation = {model_->config.vocab_size};
  EXPECT_THROW(engine.loglik(std::span(&request, 1), {}), Error);
  request.continuation.clear();
  EXPECT_THROW(engine.loglik(std::span(&request, 1), {}), Error);
  GenerateRequest prompt{ids, 3, {}};
  EXPECT_THROW(engine.generate(std::span(&prompt, 1), {}), Error);
  prompt.max_new_tokens = 0;
  EXPECT_THROW(engine.generate(std::span(&prompt, 1), {}), Error);
  const std::vector<int32_t> window(33, 5);
  EXPECT_THROW(engine.window_nll(std::span(&window, 1), {}), Error);
  EXPECT_THROW(this->engine({.slots = 0}), UsageError);
}

TEST_P(MiniEngine, MemoryIsThatOfTheRequests) {
  Engine engine = this->engine();
  const std::vector<int32_t> window(64, 5);
  engine.window_nll(std::span(&window, 1), {});
  const ModelConfig& c = model_->config;
  const uint64_t a_token = 2 * 2 * static_cast<uint64_t>(c.n_layers) * static_cast<uint64_t>(c.kv_size());
  EXPECT_EQ(engine.cache_bytes(), 64 * a_token);
  EXPECT_LT(engine.workspace_bytes(), uint64_t{8} << 20);
}

TEST_P(MiniEngine, ProgressMayCancel) {
  Engine engine = this->engine({.batch_tokens = 128, .slots = 2});
  struct Cancelled {};
  size_t calls = 0;
  EXPECT_THROW(engine.loglik(boolq(10),
                             [&](size_t, size_t) {
                               if (++calls == 2) throw Cancelled{};
                             }),
               Cancelled);
  EXPECT_EQ(engine.loglik(boolq(1), {}).size(), 2u);  // and goes on to serve
}

INSTANTIATE_TEST_SUITE_P(Models, MiniEngine, ::testing::Values("llama-mini", "qwen2-mini", "phi-mini"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
