// Checkpoints as they are in the wild: families, spellings, types, shards, what is missing and what is extra.
#include <gmock/gmock.h>

#include <set>

#include "io/test_files.h"
#include "model/session.h"
#include "model/small_checkpoint.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::vector<int32_t> kTokens = {3, 41, 7, 7, 60, 12, 79, 0, 33, 5, 18, 2, 64, 9, 27, 50, 8, 71, 6, 1};

std::vector<float> logits_of(const fs::path& path) {
  const auto model = load_model(path);
  ThreadPool pool(1);
  const int t = static_cast<int>(kTokens.size());
  Session session(model, {.context = t, .batch_tokens = t, .precision = Precision::exact()}, pool);
  Batch batch;
  batch.add(0, 0, kTokens);
  session.forward(batch);
  std::vector<float> logits(static_cast<size_t>(t) * static_cast<size_t>(model->config.vocab_size));
  session.logits(session.hidden(), t, logits.data());
  return logits;
}

void expect_near(const std::vector<float>& logits, const std::vector<double>& expected) {
  ASSERT_EQ(logits.size(), expected.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    worst = std::max(worst, std::fabs(double{logits[i]} - expected[i]));
    largest = std::max(largest, std::fabs(expected[i]));
  }
  EXPECT_GT(largest, 0.1);
  EXPECT_LE(worst, 1e-5 * largest);
}

class WildCheckpoint : public ::testing::Test {
 protected:
  void write(const SmallWeights& weights, const Json& config, DType dtype = DType::kBF16) {
    write_weights(dir_ / "model.safetensors", weights, dtype);
    write_text(dir_ / "config.json", config.dump());
  }
  std::vector<float> logits() const { return logits_of(dir_.path()); }
  std::string failure() const {
    return error_of([&] { load_model(dir_.path()); });
  }

  TemporaryDirectory dir_;
  SmallModel llama_{.llama3_scaling = true};
  SmallWeights weights_ = make_weights(llama_);
  Json config_ = make_config(llama_);
};

struct Family {
  const char* name;
  SmallModel model;
};

class WildFamily : public ::testing::TestWithParam<Family> {};

// What each family's blocks have of their own, at a small size.
TEST_P(WildFamily, GivesTheLogitsOfThePlainComputation) {
  const SmallModel& model = GetParam().model;
  TemporaryDirectory dir;
  const SmallWeights all = make_weights(model);
  SmallWeights weights = all;
  if (model.tied) weights.erase("lm_head.weight");
  const Json config = make_config(model);
  write_weights(dir / "model.safetensors", weights, DType::kBF16);
  write_text(dir / "config.json", config.dump());
  expect_near(logits_of(dir.path()), plain_logits(model, all, config, kTokens));
}

INSTANTIATE_TEST_SUITE_P(
    Families, WildFamily,
    ::testing::Values(
        Family{"Llama32_1B",
               {.heads = 4, .kv_heads = 1, .theta = 500000, .llama3_scaling = true, .tied = true}},
        Family{"Llama32_3B",  // heads of 128, more of them than the hidden size has place for
               {.heads = 3,
                .kv_heads = 1,
                .head_dim = 128,
                .theta = 500000,
                .llama3_scaling = true,
                .tied = true}},
        Family{"SmolLM2",
               {.hidden = 72, .heads = 9, .kv_heads = 3, .head_dim = 8, .theta = 100000, .tied = true}},
        Family{"TinyLlama", {.heads = 8, .kv_heads = 1, .head_dim = 8}},
        Family{"LlamaWithBiases", {.all_biases = true}},
        Family{"Qwen2",
               {.type = "qwen2", .hidden = 112, .heads = 7, .kv_heads = 1, .theta = 1e6, .tied = true}},
        Family{"Qwen25", {.type = "qwen2", .theta = 1e6}},
        Family{"Phi1", {.type = "phi", .kv_heads = 4, .rotary_fraction = 0.5}},
        Family{"Phi2",
               {.type = "phi",
                .hidden = 160,
                .heads = 2,
                .kv_heads = 2,
                .head_dim = 80,
                .rotary_fraction = 0.4}}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

TEST_F(WildCheckpoint, AllElementTypesAndBothSpellingsOfThem) {
  const auto expected = plain_logits(llama_, weights_, config_, kTokens);
  for (const auto& [dtype, name] :
       {std::pair{DType::kBF16, "bfloat16"}, {DType::kF16, "float16"}, {DType::kF32, "float32"}}) {
    for (const char* key : {"torch_dtype", "dtype"}) {
      Json config = config_;
      config.erase("torch_dtype");
      config[key] = name;
      write(weights_, config, dtype);
      expect_near(logits(), expected);
    }
  }
}

TEST_F(WildCheckpoint, OldAndNewSpellingsOfRope) {
  llama_.theta = 500000;
  config_["rope_theta"] = 500000.0;
  const auto expected = plain_logits(llama_, weights_, config_, kTokens);
  write(weights_, config_);
  expect_near(logits(), expected);

  Json renamed = config_;  // "type" was there before "rope_type"
  renamed["rope_scaling"]["type"] = renamed["rope_scaling"]["rope_type"];
  renamed["rope_scaling"].erase("rope_type");
  write(weights_, renamed);
  expect_near(logits(), expected);

  Json newer = config_;  // transformers 5
  newer["rope_parameters"] = newer["rope_scaling"];
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  newer.erase("rope_scaling");
  newer.erase("rope_theta");
  write(weights_, newer);
  expect_near(logits(), expected);

  Json plain = newer;
  plain["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  llama_.llama3_scaling = false;
  write(weights_, plain);
  expect_near(logits(), plain_logits(llama_, weights_, plain, kTokens));

  plain["rope_parameters"]["rope_type"] = "yarn";
  write(weights_, plain);
  EXPECT_THAT(failure(), HasSubstr("rope scaling 'yarn' is not supported"));
}

TEST_F(WildCheckpoint, PhisRotaryShareInEverySpelling) {
  const SmallModel phi{.type = "phi", .kv_heads = 4, .rotary_fraction = 0.5};
  const SmallWeights weights = make_weights(phi);
  Json config = make_config(phi);
  const auto expected = plain_logits(phi, weights, config, kTokens);
  config.erase("partial_rotary_factor");  // half is what it is where nothing says so
  write(weights, config);
  expect_near(logits(), expected);
  config["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 10000.0}, {"partial_rotary_factor", 0.5}};
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["num_key_value_heads"] = nullptr;  // as many as there are heads
  write(weights, config);
  expect_near(logits(), expected);
}

TEST_F(WildCheckpoint, ShardsAreOneModel) {
  write(weights_, config_);
  const std::vector<float> whole = logits();
  fs::remove(dir_ / "model.safetensors");
  std::array<SmallWeights, 3> shards;
  Json map = Json::object();
  size_t i = 0;
  for (const auto& [name, tensor] : weights_) {
    const size_t shard = i++ % shards.size();
    shards[shard][name] = tensor;
    map[name] = fmt::format("model-0000{}-of-00003.safetensors", shard + 1);
  }
  for (size_t s = 0; s < shards.size(); ++s)
    write_weights(dir_ / fmt::format("model-0000{}-of-00003.safetensors", s + 1), shards[s], DType::kBF16);
  const Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  write_text(dir_ / "model.safetensors.index.json", index.dump());
  EXPECT_EQ(logits(), whole);
  fs::remove(dir_ / "model-00002-of-00003.safetensors");
  EXPECT_THAT(failure(), HasSubstr("model-00002-of-00003.safetensors"));
}

TEST_F(WildCheckpoint, TheHeadOfATiedModel) {
  llama_.tied = true;
  SmallWeights weights = make_weights(llama_);
  const Json config = make_config(llama_);
  const auto expected = plain_logits(llama_, weights, config, kTokens);
  write(weights, config);  // written though it is the embedding
  expect_near(logits(), expected);
  weights.erase("lm_head.weight");
  write(weights, config);
  expect_near(logits(), expected);
  Json untied = config;
  for (const bool said : {true, false}) {  // false is what holds where nothing is said
    untied.erase("tie_word_embeddings");
    if (said) untied["tie_word_embeddings"] = false;
    write(weights, untied);
    EXPECT_THAT(failure(), HasSubstr("'lm_head.weight' is missing"));
  }
}

TEST_F(WildCheckpoint, ExtraTensorsChangeNothing) {
  write(weights_, config_);
  const std::vector<float> plain = logits();
  const std::vector<float> zeros(64);
  const std::vector<int64_t> positions(16);
  const auto bytes = [](const auto& v) { return reinterpret_cast<const std::byte*>(v.data()); };
  const auto main = open_safetensors(dir_ / "model.safetensors");
  std::vector<std::pair<std::string, TensorView>> tensors(main.tensors.begin(), main.tensors.end());
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {DType::kF32, {8}, bytes(zeros)}});
  tensors.push_back({"model.layers.0.self_attn.masked_bias", {DType::kF32, {}, bytes(zeros)}});
  tensors.push_back({"model.layers.0.self_attn.bias", {DType::kBool, {1, 1, 8, 8}, bytes(zeros)}});
  tensors.push_back({"model.embed_positions", {DType::kI64, {16}, bytes(positions)}});
  tensors.push_back({"model.layers.7.mlp.up_proj.weight", {DType::kF32, {2, 4}, bytes(zeros)}});
  write_safetensors(dir_ / "more.safetensors", tensors);
  fs::rename(dir_ / "more.safetensors", dir_ / "model.safetensors");
  EXPECT_EQ(logits(), plain);
}

TEST_F(WildCheckpoint, WhatDoesNotFitIsNamed) {
  SmallWeights weights = weights_;
  weights.erase("model.layers.1.mlp.up_proj.weight");
  write(weights, config_);
  EXPECT_THAT(failure(), HasSubstr("'model.layers.1.mlp.up_proj.weight' is missing"));
  Json config = config_;
  config["head_dim"] = 32;
  write(weights_, config);
  EXPECT_THAT(failure(),
              HasSubstr("self_attn.q_proj.weight' has shape [64, 64], config.json asks for [128, 64]"));
  config = config_;
  config["model_type"] = "qwen3";
  write(weights_, config);
  EXPECT_THAT(failure(), HasSubstr("the nearest is qwen2"));
}

}  // namespace
}  // namespace nibble
