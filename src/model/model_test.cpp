// The mini models against their golden values (float32, transformers).
#include <gtest/gtest.h>

#include <cmath>

#include "io/safetensors.h"
#include "model/session.h"
#include "test_data.h"

namespace nibble {
namespace {

class MiniModel : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / GetParam());
  ThreadPool pool_{2};
};

TEST_P(MiniModel, LogitsMatchTheGoldenOnes) {
  const auto golden = open_safetensors(testing::mini_dir() / "golden" / (GetParam() + ".logits.safetensors"));
  const TensorView& ids = golden.tensors.at("ids");
  const std::vector<float> expected = to_float(golden.tensors.at("logits"));
  const int t = static_cast<int>(ids.elements());
  const int64_t vocab = model_->config.vocab_size;
  std::vector<int32_t> tokens;
  for (int i = 0; i < t; ++i)
    tokens.push_back(ids.dtype == DType::kI64 ? static_cast<int32_t>(ids.as<int64_t>()[i])
                                              : ids.as<int32_t>()[i]);
  Session session(model_, {.slots = 1, .context = t, .batch_tokens = t, .precision = Precision::exact()},
                  pool_);
  std::vector<float> logits(static_cast<size_t>(t * vocab));
  for (const int piece : {t, 7, 1}) {  // at once, in pieces through the cache, token by token
    for (int start = 0; start < t; start += piece) {
      const int count = std::min(piece, t - start);
      Batch batch;
      batch.add(0, start, std::span(tokens).subspan(static_cast<size_t>(start), static_cast<size_t>(count)));
      session.forward(batch);
      session.logits(session.hidden(), count, logits.data() + start * vocab);
    }
    double worst = 0;
    for (size_t i = 0; i < logits.size(); ++i)
      worst = std::max(worst, std::fabs(double{logits[i]} - double{expected[i]}));
    EXPECT_LE(worst, 2e-3) << "in pieces of " << piece;
    for (int i = 0; i < t; ++i) {
      const auto top = [&](const std::vector<float>& v) {
        return std::max_element(v.begin() + i * vocab, v.begin() + (i + 1) * vocab) - v.begin();
      };
      ASSERT_EQ(top(logits), top(expected)) << "position " << i;
    }
  }
}

TEST_P(MiniModel, ASequenceDoesNotDependOnItsCompany) {
  const std::vector<int32_t> a = {5, 300, 17, 900, 44, 44, 120}, b = {1000, 3, 8};
  for (const Precision& precision : {Precision{}, Precision::exact(), Precision{.cache = CacheType::kI8}}) {
    Session session(model_, {.slots = 3, .context = 64, .batch_tokens = 32, .precision = precision}, pool_);
    const int64_t hidden = model_->config.hidden_size;
    Batch batch;
    batch.add(0, 0, a);
    session.forward(batch);
    const std::vector<float> alone(session.hidden(),
                                   session.hidden() + static_cast<int64_t>(a.size()) * hidden);
    batch.clear();
    batch.add(2, 0, b);
    batch.add(1, 0, a);
    session.forward(batch);
    const std::vector<float> together(session.hidden() + static_cast<int64_t>(b.size()) * hidden,
                                      session.hidden() + static_cast<int64_t>(a.size() + b.size()) * hidden);
    EXPECT_EQ(alone, together);
  }
}

// The softmax over the last position's logits, with a cache of each type.
TEST_P(MiniModel, SmallerCachesStayNear) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(3 + i * 37 % 500);
  std::vector<std::vector<double>> probabilities;
  std::vector<uint64_t> bytes;
  for (const CacheType type : {CacheType::kF32, CacheType::kF16, CacheType::kI8}) {
    Session session(model_, {.context = 100, .batch_tokens = 64, .precision = {false, false, type}}, pool_);
    bytes.push_back(session.cache_bytes());
    for (int start = 0; start < 100; start += 50) {
      Batch batch;
      batch.add(0, start, std::span(tokens).subspan(static_cast<size_t>(start), 50));
      session.forward(batch);
    }
    std::vector<float> logits(static_cast<size_t>(model_->config.vocab_size));
    session.logits(session.hidden() + 49 * model_->config.hidden_size, 1, logits.data());
    const float top = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    std::vector<double>& p = probabilities.emplace_back();
    for (const float l : logits) total += p.emplace_back(std::exp(double{l} - double{top}));
    for (double& value : p) value /= total;
  }
  EXPECT_EQ(bytes[0], 2 * bytes[1]);
  EXPECT_LT(bytes[2], bytes[1]);
  for (const size_t type : {1, 2}) {
    double kl = 0;
    for (size_t i = 0; i < probabilities[0].size(); ++i)
      kl += probabilities[0][i] * std::log(probabilities[0][i] / probabilities[type][i]);
    EXPECT_GE(kl, -1e-9);
    EXPECT_LT(kl, type == 1 ? 1e-5 : 2e-2);
  }
}

TEST_P(MiniModel, RefusesWhatDoesNotFit) {
  Session session(model_, {.slots = 1, .context = 8, .batch_tokens = 8}, pool_);
  Batch batch;
  EXPECT_THROW(session.forward(batch), Error);
  batch.add(0, 4, std::vector<int32_t>{1, 2, 3, 4, 5});
  EXPECT_THROW(session.forward(batch), Error);
  batch.clear();
  batch.add(0, 0, std::vector<int32_t>{model_->config.vocab_size});
  EXPECT_THROW(session.forward(batch), Error);
  EXPECT_THROW(Session(model_, {.context = model_->config.max_context + 1}, pool_), Error);
}

INSTANTIATE_TEST_SUITE_P(Models, MiniModel, ::testing::Values("llama-mini", "qwen2-mini", "phi-mini"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
