// The GPU's forward pass against golden values and against the processor's. Skips where no card can be used.
#include "model/cuda/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "io/safetensors.h"
#include "model/cuda_device.h"
#include "model/session.h"
#include "test_data.h"

namespace nibble {
namespace {

size_t count(int64_t n) { return static_cast<size_t>(n); }

std::vector<float> row_logits(ForwardPass& pass, size_t rows) {
  const size_t vocab = count(pass.model().config.vocab_size);
  std::vector<float> logits(rows * vocab);
  for (size_t row = 0; row < rows;) {
    const size_t now = std::min(rows - row, count(pass.logit_rows_at_once()));
    pass.row_logits(row, now, logits.data() + row * vocab);
    row += now;
  }
  return logits;
}

// KL(p ‖ q) of softmaxes, the mean over rows.
double mean_kl(const std::vector<float>& p, const std::vector<float>& q, size_t vocab) {
  double total = 0;
  const size_t rows = p.size() / vocab;
  for (size_t r = 0; r < rows; ++r) {
    const auto log_sum = [&](const std::vector<float>& x) {
      const float top = *std::max_element(x.begin() + static_cast<long>(r * vocab),
                                          x.begin() + static_cast<long>((r + 1) * vocab));
      double sum = 0;
      for (size_t i = 0; i < vocab; ++i) sum += std::exp(double{x[r * vocab + i]} - double{top});
      return double{top} + std::log(sum);
    };
    const double lp = log_sum(p), lq = log_sum(q);
    for (size_t i = 0; i < vocab; ++i) {
      const double a = double{p[r * vocab + i]} - lp, b = double{q[r * vocab + i]} - lq;
      total += std::exp(a) * (a - b);
    }
  }
  return total / static_cast<double>(rows);
}

std::vector<int32_t> some_tokens(int n) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(3 + i * 37 % 500);
  return tokens;
}

class CudaModel : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!cuda_problem().empty()) GTEST_SKIP() << cuda_problem();
    model_ = load_model(testing::mini_dir() / GetParam());
  }
  std::unique_ptr<ForwardPass> open(SessionOptions options, bool gpu) {
    options.precision.device = gpu ? Device::kCuda : Device::kCpu;
    return open_forward_pass(model_, options, pool_);
  }
  // Logits of the sequence, run in pieces of so many tokens.
  std::vector<float> in_pieces(ForwardPass& pass, const std::vector<int32_t>& tokens, int piece,
                               int slot = 0) {
    std::vector<float> all;
    for (size_t start = 0; start < tokens.size(); start += count(piece)) {
      const size_t now = std::min(count(piece), tokens.size() - start);
      Batch batch;
      batch.add(slot, static_cast<int>(start), std::span(tokens).subspan(start, now));
      pass.forward(batch);
      const auto logits = row_logits(pass, now);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }
  size_t vocab() const { return count(model_->config.vocab_size); }

  std::shared_ptr<const Model> model_;
  ThreadPool pool_{2};
};

TEST_P(CudaModel, ExactModeMatchesTheProcessorInPieces) {
  const auto tokens = some_tokens(70);
  const SessionOptions options{
      .slots = 2, .context = 80, .batch_tokens = 70, .precision = Precision::exact()};
  const auto cpu = open(options, false), gpu = open(options, true);
  const auto expected = in_pieces(*cpu, tokens, 70);
  for (const int piece : {70, 20, 7, 3, 1}) {
    const auto got = in_pieces(*gpu, tokens, piece, 1);
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::fabs(double{got[i]} - double{expected[i]}));
    EXPECT_LE(worst, 2e-3) << "in pieces of " << piece;
  }
}

TEST_P(CudaModel, DefaultModeStaysNear) {
  const auto tokens = some_tokens(200);
  for (const CacheType cache : {CacheType::kF16, CacheType::kI8}) {
    Precision precision;
    precision.cache = cache;
    Precision exact = Precision::exact();
    const auto cpu = open({.context = 200, .batch_tokens = 200, .precision = exact}, false);
    const auto gpu = open({.context = 200, .batch_tokens = 200, .precision = precision}, true);
    const auto expected = in_pieces(*cpu, tokens, 200);
    for (const int piece : {200, 9, 1}) {
      const double kl = mean_kl(expected, in_pieces(*gpu, tokens, piece), vocab());
      EXPECT_LE(kl, cache == CacheType::kF16 ? 1e-4 : 2e-2) << "in pieces of " << piece;
      EXPECT_GE(kl, -1e-9);
      RecordProperty("kl", std::to_string(kl));
    }
  }
}

// A step as one kernel, wherever that takes the model, and the likeliest tokens with the head inside it.
TEST_P(CudaModel, AStepInOneKernelStaysNear) {
  const auto tokens = some_tokens(120);
  const SessionOptions options{.slots = 2, .context = 200, .batch_tokens = 120};
  SessionOptions exact = options;
  exact.precision = Precision::exact();
  setenv("NIBBLE_CUDA_STEP", "one", 1);
  const auto gpu = open(options, true);
  unsetenv("NIBBLE_CUDA_STEP");
  const auto cpu = open(exact, false);
  const double kl = mean_kl(in_pieces(*cpu, tokens, 120), in_pieces(*gpu, tokens, 1, 1), vocab());
  EXPECT_LE(kl, 1e-4);
  const bool used = dynamic_cast<const CudaSession&>(*gpu).used_one_kernel();
  // Neither bf16 weights nor columns in an order of their own or formats of several kinds.
  const std::set<std::string> taken = {"foreign/awq-asym-g32",
                                       "foreign/compressed-tensors-asym-g64",
                                       "foreign/compressed-tensors-sym-g64",
                                       "foreign/compressed-tensors-w8-channel",
                                       "foreign/gptq-asym-g32",
                                       "foreign/gptq-sym-g32"};
  EXPECT_EQ(used, taken.contains(GetParam())) << GetParam();
  std::vector<int32_t> found(40), one_by_one;
  const Continuation from{1, 120, 5};
  gpu->greedy(std::span(&from, 1), 40, found.data(), nullptr);
  for (int32_t token = 5; one_by_one.size() < found.size();) {
    Batch batch;
    batch.add(1, 120 + static_cast<int>(one_by_one.size()), std::span(&token, 1));
    gpu->forward(batch);
    const size_t row = 0;
    gpu->argmax(std::span(&row, 1), std::span(&token, 1));
    one_by_one.push_back(token);
  }
  EXPECT_EQ(found, one_by_one);
}

TEST_P(CudaModel, SequencesInOneBatchKeepApart) {
  const std::vector<int32_t> a = {5, 300, 17, 900, 44, 44, 120}, b = {1000, 3, 8}, c = some_tokens(30);
  const auto gpu =
      open({.slots = 3, .context = 64, .batch_tokens = 48, .precision = Precision::exact()}, true);
  const auto alone = in_pieces(*gpu, a, 7);
  Batch batch;
  batch.add(2, 0, b);
  batch.add(1, 0, a);
  batch.add(0, 0, c);
  gpu->forward(batch);
  const auto together = row_logits(*gpu, batch.tokens.size());
  for (size_t i = 0; i < alone.size(); ++i) ASSERT_NEAR(together[b.size() * vocab() + i], alone[i], 1e-4);
  // A step of all three at places that differ.
  batch.clear();
  const int32_t next = 77;
  for (const auto& [slot, length] : {std::pair{1, a.size()}, {0, c.size()}, {2, b.size()}})
    batch.add(slot, static_cast<int>(length), std::span(&next, 1));
  gpu->forward(batch);
  const auto step = row_logits(*gpu, 3);
  auto longer = a;
  longer.push_back(next);
  const auto cpu = open({.context = 64, .batch_tokens = 48, .precision = Precision::exact()}, false);
  const auto expected = in_pieces(*cpu, longer, 8);
  for (size_t i = 0; i < vocab(); ++i) ASSERT_NEAR(step[i], expected[a.size() * vocab() + i], 2e-3);
}

TEST_P(CudaModel, ACopiedCacheServesLikeItsOwn) {
  const auto tokens = some_tokens(40);
  for (const CacheType cache : {CacheType::kF32, CacheType::kF16, CacheType::kI8}) {
    Precision precision = Precision::exact();
    precision.cache = cache;
    const auto gpu = open({.slots = 3, .context = 64, .batch_tokens = 40, .precision = precision}, true);
    in_pieces(*gpu, tokens, 40, 0);
    gpu->copy_cache(0, 2, 30);
    std::vector<std::vector<float>> rest;
    for (const int slot : {0, 2}) {
      Batch batch;
      batch.add(slot, 30, std::span(tokens).subspan(30));
      gpu->forward(batch);
      rest.push_back(row_logits(*gpu, 10));
    }
    EXPECT_EQ(rest[0], rest[1]);
  }
}

TEST_P(CudaModel, GreedyTextIsTheProcessors) {
  const SessionOptions options{
      .slots = 2, .context = 120, .batch_tokens = 40, .precision = Precision::exact()};
  const auto cpu = open(options, false), gpu = open(options, true);
  const auto prompt = some_tokens(21), other = some_tokens(9);
  constexpr int kSteps = 40;
  std::vector<std::vector<int32_t>> found;
  for (ForwardPass* pass : {cpu.get(), gpu.get()}) {
    Batch batch;
    batch.add(0, 0, prompt);
    batch.add(1, 0, other);
    pass->forward(batch);
    const std::vector<size_t> rows = {prompt.size() - 1, prompt.size() + other.size() - 1};
    std::vector<int32_t> best(2), tokens(2 * kSteps);
    pass->argmax(rows, best);
    std::vector<double> ms(kSteps);
    const std::vector<Continuation> sequences = {{0, 21, best[0]}, {1, 9, best[1]}};
    pass->greedy(sequences, kSteps, tokens.data(), ms.data());
    tokens.insert(tokens.begin(), best.begin(), best.end());
    found.push_back(tokens);
    for (const double t : ms) EXPECT_GE(t, 0);
  }
  EXPECT_EQ(found[0], found[1]);
}

TEST_P(CudaModel, ScoresAreTheProcessors) {
  const auto tokens = some_tokens(50);
  const SessionOptions options{.context = 64, .batch_tokens = 50, .precision = Precision::exact()};
  std::vector<TokenQuestion> questions;
  for (size_t row = 2; row + 1 < tokens.size(); row += 1 + row % 3) {
    questions.push_back({row, tokens[row + 1]});
    questions.push_back({row, 7});
  }
  std::vector<std::vector<TokenScore>> scores;
  for (const bool gpu : {false, true}) {
    const auto pass = open(options, gpu);
    Batch batch;
    batch.add(0, 0, tokens);
    pass->forward(batch);
    pass->score(questions, scores.emplace_back(questions.size()));
  }
  for (size_t i = 0; i < questions.size(); ++i) {
    EXPECT_NEAR(scores[0][i].loglik, scores[1][i].loglik, 2e-3);
    EXPECT_EQ(scores[0][i].is_greedy, scores[1][i].is_greedy);
  }
}

TEST_P(CudaModel, RefusesWhatDoesNotFit) {
  const auto gpu = open({.slots = 1, .context = 8, .batch_tokens = 8}, true);
  Batch batch;
  EXPECT_THROW(gpu->forward(batch), Error);
  batch.add(0, 4, std::vector<int32_t>{1, 2, 3, 4, 5});
  EXPECT_THROW(gpu->forward(batch), Error);
  std::vector<int32_t> tokens(20);
  const Continuation from{0, 0, 1};
  EXPECT_THROW(gpu->greedy(std::span(&from, 1), 20, tokens.data(), nullptr), Error);
  EXPECT_THROW(open({.context = model_->config.max_context + 1}, true), Error);
}

std::string test_name(const ::testing::TestParamInfo<std::string>& parameter) {
  std::string name = parameter.param.substr(parameter.param.find('/') + 1);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, CudaModel,
                         ::testing::Values("models/llama-mini", "models/qwen2-mini", "models/phi-mini"),
                         test_name);
// Packed weights, of other programs' making: 4 bits with zero points, 8 bits, act-order.
INSTANTIATE_TEST_SUITE_P(Packed, CudaModel,
                         ::testing::Values("foreign/awq-asym-g32", "foreign/compressed-tensors-asym-g64",
                                           "foreign/compressed-tensors-sym-g64",
                                           "foreign/compressed-tensors-w8-channel",
                                           "foreign/gptq-act-order-g32", "foreign/gptq-asym-g32",
                                           "foreign/gptq-sym-g32", "foreign/gptq-v2-dynamic"),
                         test_name);

}  // namespace
}  // namespace nibble
