// Loss and gradients against PyTorch's (data/mini/golden) and against finite differences.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "io/safetensors.h"
#include "model/session.h"
#include "quant/quantize.h"
#include "test_data.h"
#include "train/gradient_pass.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::vector<int32_t> golden_tokens(const std::string& model) {
  const auto golden = open_safetensors(testing::mini_dir() / "golden" / (model + ".logits.safetensors"));
  const TensorView& ids = golden.tensors.at("ids");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < ids.elements(); ++i)
    tokens.push_back(ids.dtype == DType::kI64 ? static_cast<int32_t>(ids.as<int64_t>()[i])
                                              : ids.as<int32_t>()[i]);
  return tokens;
}

double norm_of(const std::vector<float>& v) {
  double squares = 0;
  for (const float x : v) squares += double{x} * double{x};
  return std::sqrt(squares);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i)
    squares += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
  return std::sqrt(squares);
}

// Three sequences of odd lengths, one of them a single token.
Batch odd_batch() {
  Batch batch;
  for (const int count : {37, 1, 150}) {
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(3 + (i * 37 + count * 11) % 500);
    batch.add(0, 0, ids);
  }
  return batch;
}

class Gradients : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const Model> model_ = load_model(testing::mini_dir() / "models" / GetParam());
  ThreadPool pool_{2};

  // The model rounded to 4 bits in groups of 32.
  std::shared_ptr<const Model> quantized(bool symmetric) {
    const fs::path out =
        fs::temp_directory_path() / fmt::format("nibble-train-{}-{}-{}", ::getpid(), GetParam(), symmetric);
    QuantizeOptions options;
    options.plan.base = {"rtn", 4, 32, symmetric};
    options.layer.error_limit = options.layer.growth_limit = 1e9;
    quantize_model(model_, options, out, true, pool_, nullptr);
    made_.push_back(out);
    return load_model(out);
  }
  void TearDown() override {
    std::error_code ignored;
    for (const fs::path& path : made_) fs::remove_all(path, ignored);
  }
  std::vector<fs::path> made_;
};

TEST_P(Gradients, OfEveryParameterAreThoseOfPyTorch) {
  const fs::path golden = testing::mini_dir() / "golden";
  const Json expected = parse_json(read_file(golden / (GetParam() + ".grads.json")), "grads.json");
  const auto whole = open_safetensors(golden / (GetParam() + ".grads.safetensors"));
  const std::vector<int32_t> tokens = golden_tokens(GetParam());
  Batch batch;
  batch.add(0, 0, tokens);
  for (const bool recompute : {true, false}) {
    TrainedModel trained(model_, {.everything = true}, pool_);
    GradientPass pass(trained,
                      {.batch_tokens = static_cast<int>(tokens.size()),
                       .context = static_cast<int>(tokens.size()),
                       .recompute = recompute},
                      pool_);
    CrossEntropy loss(model_->config.vocab_size, pool_);
    loss.set(CrossEntropy::next_tokens(batch));
    const double value = expected.at("value").get<double>();
    EXPECT_NEAR(pass.gradients(batch, loss), value, 1e-4 * value);
    size_t compared = 0;
    for (const Parameter* p : trained.parameters()) {
      ASSERT_TRUE(expected.at("grad_norms").contains(p->name)) << p->name;
      const double norm = expected.at("grad_norms").at(p->name).get<double>();
      EXPECT_NEAR(norm_of(p->gradient), norm, 1e-4 * norm) << p->name;
      if (const auto found = whole.tensors.find(p->name); found != whole.tensors.end()) {
        EXPECT_LE(distance(p->gradient, to_float(found->second)), 1e-4 * norm) << p->name;
        ++compared;
      }
    }
    EXPECT_EQ(trained.parameters().size(), expected.at("grad_norms").size());
    EXPECT_EQ(compared, whole.tensors.size());
  }
}

// What a batch's loss and gradients are must not depend on how sequences were put together.
TEST_P(Gradients, OfABatchAreTheMeanOverItsTokens) {
  const Batch batch = odd_batch();
  TrainedModel trained(model_, {.everything = true}, pool_);
  GradientPass pass(trained, {.batch_tokens = 200, .context = 150}, pool_);
  CrossEntropy loss(model_->config.vocab_size, pool_);
  loss.set(CrossEntropy::next_tokens(batch));
  const double together = pass.gradients(batch, loss);
  std::vector<std::vector<float>> gradients;
  for (Parameter* p : trained.parameters()) gradients.push_back(p->gradient);
  trained.clear_gradients();
  double apart = 0;
  size_t first = 0;
  for (const Segment& s : batch.segments) {
    const size_t count = static_cast<size_t>(s.count);
    if (count > 1) {
      Batch one;
      one.add(0, 0, std::span(batch.tokens).subspan(first, count));
      // As a batch with the same number of rows that count: a mean over all of them.
      const double share = static_cast<double>(count - 1) / 185.0;
      TrainedModel alone(model_, {.everything = true}, pool_);
      GradientPass single(alone, {.batch_tokens = 150, .context = 150}, pool_);
      loss.set(CrossEntropy::next_tokens(one));
      apart += share * single.gradients(one, loss);
      const auto from = alone.parameters();
      const auto to = trained.parameters();
      for (size_t i = 0; i < to.size(); ++i) {
        for (size_t j = 0; j < to[i]->gradient.size(); ++j)
          to[i]->gradient[j] += static_cast<float>(share) * from[i]->gradient[j];
      }
    }
    first += count;
  }
  EXPECT_NEAR(together, apart, 1e-5 * apart);
  const auto all = trained.parameters();
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_LE(distance(all[i]->gradient, gradients[i]), 1e-4 * norm_of(gradients[i])) << all[i]->name;
}

// Rows that do not count take no part: those of two losses over a part each add up.
TEST_P(Gradients, OfSomeRowsAddUpToThoseOfAll) {
  const Batch batch = odd_batch();
  TrainedModel trained(model_, {.everything = true}, pool_);
  GradientPass pass(trained, {.batch_tokens = 200, .context = 150}, pool_);
  CrossEntropy loss(model_->config.vocab_size, pool_);
  const std::vector<int32_t> answers = CrossEntropy::next_tokens(batch);
  loss.set(answers);
  const double together = pass.gradients(batch, loss);
  std::vector<std::vector<float>> gradients;
  for (Parameter* p : trained.parameters()) gradients.push_back(p->gradient);
  trained.clear_gradients();
  double apart = 0;
  for (const bool first : {true, false}) {
    std::vector<int32_t> part = answers;
    for (size_t i = 0; i < part.size(); ++i) {
      if ((i % 3 == 0 || (i > 40 && i < 60)) == first) part[i] = -1;
    }
    loss.set(part, 185);
    apart += pass.gradients(batch, loss);
  }
  EXPECT_NEAR(together, apart, 1e-6 * apart);
  const auto all = trained.parameters();
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_LE(distance(all[i]->gradient, gradients[i]), 1e-5 * norm_of(gradients[i])) << all[i]->name;
}

// Whether weights are kept from pass to pass changes the time alone.
TEST_P(Gradients, KeptWeightsAreThoseOfEveryPass) {
  const Batch batch = odd_batch();
  for (const auto& base : {model_, quantized(false)}) {
    TrainedModel trained(base, {.scales = base->is_quantized(), .adapter_rank = 3, .seed = 5}, pool_);
    const GradientOptions options{.batch_tokens = 200, .context = 150};
    GradientOptions keeping = options;
    keeping.keep_weights = true;
    GradientPass plain(trained, options, pool_), kept(trained, keeping, pool_);
    EXPECT_GT(kept.workspace_bytes(), plain.workspace_bytes());
    CrossEntropy loss(model_->config.vocab_size, pool_);
    loss.set(CrossEntropy::next_tokens(batch));
    const auto gradients = [&](GradientPass& pass, Since since) {
      trained.clear_gradients();
      std::vector<std::vector<float>> all = {{static_cast<float>(pass.gradients(batch, loss, since))}};
      for (const Parameter* p : trained.parameters()) all.push_back(p->gradient);
      return all;
    };
    const auto before = gradients(plain, Since::kChanged);
    EXPECT_EQ(gradients(kept, Since::kChanged), before);
    EXPECT_EQ(gradients(kept, Since::kUnchanged), before);
    for (Parameter* p : trained.parameters()) {
      for (float& x : p->value) x = 0.97f * x + 0.001f;
    }
    const auto after = gradients(plain, Since::kChanged);
    EXPECT_NE(after, before);
    EXPECT_EQ(gradients(kept, Since::kChanged), after);
  }
}

// Frozen weights in bf16 beside adapters in float32, by every table that has the product.
TEST_P(Gradients, WithProductsInBf16AreNearThoseInFloat32) {
  const Batch batch = odd_batch();
  for (const auto& base : {model_, quantized(false)}) {
    TrainedModel trained(base, {.adapter_rank = 3, .seed = 5}, pool_);
    Random random(3);
    for (Parameter* p : trained.parameters()) {
      if (p->name.find("lora_B") == std::string::npos) continue;
      for (float& x : p->value) x = static_cast<float>((random.uniform() - 0.5) * 0.05);
    }
    CrossEntropy loss(model_->config.vocab_size, pool_);
    loss.set(CrossEntropy::next_tokens(batch));
    GradientOptions options{.batch_tokens = 200, .context = 150, .recompute = false, .keep_weights = true};
    GradientPass exact(trained, options, pool_);
    const double expected = exact.gradients(batch, loss);
    std::vector<std::vector<float>> gradients;
    for (const Parameter* p : trained.parameters()) gradients.push_back(p->gradient);
    for (const std::string_view isa : supported_isas()) {
      options.bf16 = kernels_named(isa);
      if (!options.bf16->dense_bf16_bf16) continue;
      GradientPass rounded(trained, options, pool_);
      trained.clear_gradients();
      EXPECT_NEAR(rounded.gradients(batch, loss), expected, 5e-3 * expected) << isa;
      const auto all = trained.parameters();
      for (size_t i = 0; i < all.size(); ++i)
        EXPECT_LE(distance(all[i]->gradient, gradients[i]), 0.1 * norm_of(gradients[i]))
            << isa << " " << all[i]->name;
      // The adapters of now count, whatever is kept.
      for (Parameter* p : all) {
        for (float& x : p->value) x = 1.5f * x;
      }
      EXPECT_NEAR(rounded.loss(batch, loss), exact.loss(batch, loss), 5e-3 * expected) << isa;
      for (Parameter* p : all) {
        for (float& x : p->value) x = x / 1.5f;
      }
    }
  }
}

// Along the gradient, and along a random direction, the loss changes as the gradients say.
// scale: of the gradient to the loss. change: of the loss at each step, as a share of it.
void expect_slopes(TrainedModel& trained, GradientPass& pass, const Batch& batch, Loss& loss, double scale,
                   double change) {
  trained.clear_gradients();
  const double value = pass.gradients(batch, loss);
  Random random(7);
  std::map<std::string, std::vector<Parameter*>> kinds;
  for (Parameter* p : trained.parameters()) kinds[p->name.substr(p->name.find_last_of('.'))].push_back(p);
  for (const auto& [kind, parameters] : kinds) {
    std::vector<std::vector<float>> before;
    for (const Parameter* p : parameters) before.push_back(p->value);
    for (const bool along : {true, false}) {
      std::vector<std::vector<float>> directions;
      double slope = 0;
      for (const Parameter* p : parameters) {
        std::vector<float>& d = directions.emplace_back(p->gradient);
        const double spread = norm_of(d) / std::sqrt(static_cast<double>(d.size()));
        for (size_t i = 0; i < d.size(); ++i) {
          // Still half along the gradient, so that the change stands above rounding.
          if (!along) d[i] += static_cast<float>((random.uniform() - 0.5) * 3 * spread);
          slope += double{d[i]} * double{p->gradient[i]};
        }
      }
      const double step = change * value * scale / slope;
      const auto at = [&](double apart) {
        for (size_t q = 0; q < parameters.size(); ++q) {
          for (size_t i = 0; i < before[q].size(); ++i)
            parameters[q]->value[i] =
                static_cast<float>(double{before[q][i]} + apart * double{directions[q][i]});
        }
        return pass.loss(batch, loss);
      };
      const double measured = (at(step) - at(-step)) / (2 * step) * scale;
      for (size_t q = 0; q < parameters.size(); ++q) parameters[q]->value = before[q];
      EXPECT_NEAR(measured, slope, 1e-2 * std::fabs(slope)) << kind << (along ? " along it" : " askew");
    }
  }
}

TEST_P(Gradients, OfScalesAndZerosAreFiniteDifferences) {
  for (const bool symmetric : {false, true}) {
    const auto packed = quantized(symmetric);
    const Batch batch = odd_batch();
    TrainedModel trained(packed, {.scales = true, .zeros = true, .round_to_stored = false}, pool_);
    GradientPass pass(trained, {.batch_tokens = 200, .context = 150}, pool_);
    const size_t linears = packed->linears().size();
    EXPECT_EQ(trained.parameters().size(), symmetric ? linears : 2 * linears);
    CrossEntropy loss(model_->config.vocab_size, pool_);
    loss.set(CrossEntropy::next_tokens(batch));
    expect_slopes(trained, pass, batch, loss, 1, 2e-3);
    Session teacher(
        model_, {.slots = 3, .context = 150, .batch_tokens = 200, .precision = Precision::exact()}, pool_);
    Divergence divergence(teacher, 2, pool_);
    expect_slopes(trained, pass, batch, divergence, 4, 2e-2);
  }
}

TEST_P(Gradients, OfAdaptersAreFiniteDifferences) {
  for (const auto& base : {model_, quantized(false)}) {
    const Batch batch = odd_batch();
    TrainedModel trained(base, {.adapter_rank = 3, .seed = 5}, pool_);
    GradientPass pass(trained, {.batch_tokens = 200, .context = 150}, pool_);
    CrossEntropy loss(model_->config.vocab_size, pool_);
    loss.set(CrossEntropy::next_tokens(batch));
    const double before = pass.loss(batch, loss);
    Random random(3);
    for (Parameter* p : trained.parameters()) {
      if (p->name.find("lora_B") == std::string::npos) continue;
      for (float& x : p->value) {
        EXPECT_EQ(x, 0.0f);  // an adapter begins as nothing
        x = static_cast<float>((random.uniform() - 0.5) * 0.02);
      }
    }
    EXPECT_NE(pass.loss(batch, loss), before);
    expect_slopes(trained, pass, batch, loss, 1, 2e-3);
  }
}

// The forward pass of training and that of inference are the same model.
TEST_P(Gradients, TheLossIsThatOfInference) {
  const Batch batch = odd_batch();
  for (const auto& model : {model_, quantized(false)}) {
    TrainedModel trained(model, {}, pool_);
    EXPECT_TRUE(trained.parameters().empty());
    GradientPass pass(trained, {.batch_tokens = 200, .context = 150}, pool_);
    Session session(model, {.slots = 3, .context = 150, .batch_tokens = 200, .precision = Precision::exact()},
                    pool_);
    Divergence self(session, 1, pool_);
    Batch slots = batch;
    for (size_t i = 0; i < slots.segments.size(); ++i) slots.segments[i].slot = static_cast<int>(i);
    EXPECT_NEAR(pass.loss(slots, self), 0, 1e-6);
  }
}

TEST_P(Gradients, ABadBatchIsRefused) {
  TrainedModel trained(model_, {}, pool_);
  GradientPass pass(trained, {.batch_tokens = 8, .context = 4}, pool_);
  CrossEntropy loss(model_->config.vocab_size, pool_);
  const auto run = [&](Batch batch) {
    loss.set(CrossEntropy::next_tokens(batch));
    return pass.loss(batch, loss);
  };
  Batch batch;
  batch.add(0, 0, std::vector<int32_t>{1, 2, 3});
  EXPECT_GT(run(batch), 0);
  batch.segments[0].start = 1;
  EXPECT_THROW(run(batch), Error);
  batch.clear();
  batch.add(0, 0, std::vector<int32_t>{1, 2, 3, 4, 5});
  EXPECT_THROW(run(batch), Error);
  batch.clear();
  batch.add(0, 0, std::vector<int32_t>{1, -1, 3});
  EXPECT_THROW(run(batch), Error);
  batch.clear();
  batch.add(0, 0, std::vector<int32_t>{1});
  EXPECT_THROW(run(batch), Error);  // nothing comes after it
  EXPECT_THROW(TrainedModel(quantized(true), {.everything = true}, pool_), Error);
}

INSTANTIATE_TEST_SUITE_P(Models, Gradients, ::testing::Values("llama-mini", "qwen2-mini", "phi-mini"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
