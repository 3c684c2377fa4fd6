#include "eval/compare_run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "eval/sequence_logits.h"
#include "eval/windows.h"
#include "test_data.h"

namespace nibble {
namespace {

std::filesystem::path mini(const char* name) { return testing::mini_dir() / "models" / name; }
std::string wikitext() { return read_file(testing::mini_dir() / "data/wikitext.test.txt"); }

TEST(CompareRun, AModelDoesNotDifferFromItself) {
  ThreadPool pool(2);
  const LoadedModel a = load_model_and_tokenizer(mini("llama-mini"));
  const auto b = load_model(mini("llama-mini"));
  for (const auto& quant : {a.model, b}) {
    size_t calls = 0;
    const Comparison c =
        compare_models(a.model, {quant}, *a.tokenizer, wikitext(), {.window = 128, .windows = 3}, pool,
                       [&](size_t done, size_t total) {
                         EXPECT_EQ(done, ++calls);
                         EXPECT_EQ(total, 3u);
                       })
            .front();
    EXPECT_EQ(c.windows, 3);
    EXPECT_EQ(c.tokens, 3 * 63);
    EXPECT_EQ(c.kl_mean, 0);
    EXPECT_EQ(c.kl_max, 0);
    EXPECT_EQ(c.top1_agreement, 1);
    EXPECT_EQ(c.ppl_base, c.ppl_quant);
    EXPECT_EQ(c.not_finite, 0);
  }
}

// Against the same measure from all logits at once; the model differs from itself by its precision.
TEST(CompareRun, StreamsWhatWholeLogitsGive) {
  ThreadPool pool(2);
  const LoadedModel base = load_model_and_tokenizer(mini("qwen2-mini"));
  auto changed = std::make_shared<Model>(open_checkpoint(mini("qwen2-mini")));
  for (float& w : changed->final_norm.weight) w *= 1.1f;
  const CompareOptions options{
      .window = 100, .windows = 2, .batch_tokens = 37, .precision = Precision::exact()};
  const Comparison c =
      compare_models(base.model, {changed}, *base.tokenizer, wikitext(), options, pool, {}).front();

  const auto windows =
      comparison_windows(base.tokenizer->encode(wikitext(), false), 100, 2, base.tokenizer->start_token());
  const size_t vocab = static_cast<size_t>(base.model->config.vocab_size);
  double kl = 0, nll = 0, n = 0;
  for (const auto& window : windows) {
    const auto p = sequence_logits(base.model, window, Precision::exact(), pool);
    const auto q = sequence_logits(changed, window, Precision::exact(), pool);
    for (size_t i = 50; i <= 98; ++i, ++n) {
      const auto d =
          position_distance({p.data() + i * vocab, vocab}, {q.data() + i * vocab, vocab}, window[i + 1]);
      kl += d.kl;
      nll += d.nll_quant;
    }
  }
  EXPECT_EQ(c.tokens, static_cast<int64_t>(n));
  EXPECT_GT(kl, 0);
  EXPECT_NEAR(c.kl_mean, kl / n, 1e-12);
  EXPECT_NEAR(c.ppl_quant, std::exp(nll / n), 1e-9);
}

TEST(CompareRun, RefusesWhatCannotBeCompared) {
  ThreadPool pool(1);
  const LoadedModel a = load_model_and_tokenizer(mini("llama-mini"));
  auto other = std::make_shared<Model>(open_checkpoint(mini("llama-mini")));
  other->config.vocab_size -= 1;
  EXPECT_THROW(compare_models(a.model, {other}, *a.tokenizer, wikitext(), {}, pool, {}), Error);
  EXPECT_THROW(compare_models(a.model, {a.model}, *a.tokenizer, "short", {}, pool, {}), Error);
  EXPECT_THROW(compare_models(a.model, {a.model}, *a.tokenizer, wikitext(), {.window = 3}, pool, {}),
               UsageError);
  EXPECT_THROW(compare_models(a.model, {a.model}, *a.tokenizer, wikitext(), {.window = 1025}, pool, {}),
               Error);
}

// Position by position the second model's KL is held against the first's: nearly all that the text adds to
// the error of either cancels.
TEST(CompareRun, SeveralModelsArePaired) {
  ThreadPool pool(2);
  const LoadedModel base = load_model_and_tokenizer(mini("llama-mini"));
  const auto with_norm = [&](float factor) {
    auto changed = std::make_shared<Model>(open_checkpoint(mini("llama-mini")));
    for (float& w : changed->final_norm.weight) w *= factor;
    return changed;
  };
  const CompareOptions options{.window = 128, .windows = 6};
  const auto near = with_norm(1.10f), far = with_norm(1.11f);
  const auto both = compare_models(base.model, {near, far}, *base.tokenizer, wikitext(), options, pool, {});
  ASSERT_EQ(both.size(), 2u);
  EXPECT_TRUE(std::isnan(both[0].kl_minus_first.value));
  for (const size_t i : {0u, 1u}) {
    const auto alone =
        compare_models(base.model, {i == 0 ? near : far}, *base.tokenizer, wikitext(), options, pool, {});
    EXPECT_EQ(both[i].kl_mean, alone.front().kl_mean);
    EXPECT_EQ(both[i].kl_stderr, alone.front().kl_stderr);
  }
  const Estimate& difference = both[1].kl_minus_first;
  EXPECT_NEAR(difference.value, both[1].kl_mean - both[0].kl_mean, 1e-12);
  EXPECT_GT(difference.value, 4 * difference.stderr_);
  EXPECT_LT(difference.stderr_, 0.5 * both[1].kl_stderr);
  EXPECT_EQ(to_json(both[1])["kl_minus_first"]["mean"], difference.value);
}

}  // namespace
}  // namespace nibble
