// config.json as it is in the wild.
#include "model/config.h"

#include <gmock/gmock.h>

#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(ModelConfig, AnUnsupportedArchitectureNamesItsNearestRelative) {
  const auto message = [](const char* type) {
    return error_of([&] { find_architecture(type, "config.json"); });
  };
  EXPECT_EQ(message("llama"), "");
  EXPECT_THAT(message("qwen3"), HasSubstr("the nearest is qwen2"));
  EXPECT_THAT(message("mistral"), HasSubstr("the nearest is llama"));
  EXPECT_THAT(message("phi3"), HasSubstr("the nearest is llama"));
  EXPECT_THAT(message("phi-msft"), HasSubstr("the nearest is phi,"));
  EXPECT_THAT(message("mixformer-sequential"), HasSubstr("the nearest is phi,"));
  EXPECT_THAT(message("mamba"), ::testing::Not(HasSubstr("nearest")));
}

// What the published configurations say, in the spelling of their time; the parts that matter here.
ModelConfig read(const char* json) { return read_config(Json::parse(json), Json(), "config.json"); }

TEST(ModelConfig, Llama32) {
  const ModelConfig c = read(R"({"model_type": "llama", "attention_bias": false, "head_dim": 128,
      "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072,
      "mlp_bias": false, "num_attention_heads": 24, "num_hidden_layers": 28, "num_key_value_heads": 8,
      "eos_token_id": [128001, 128008, 128009], "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0,
      "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
      "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
      "vocab_size": 128256})");
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.query_size(), 3072);
  EXPECT_EQ(c.kv_size(), 1024);
  EXPECT_TRUE(c.tied_head);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_EQ(c.rope_scaling->factor, 32);
  EXPECT_EQ(c.rope_scaling->original_context, 8192);
  EXPECT_EQ(c.end_tokens, (std::vector<int32_t>{128001, 128008, 128009}));
}

TEST(ModelConfig, SmolLM2AndTinyLlama) {
  const ModelConfig smol = read(R"({"model_type": "llama", "hidden_act": "silu", "hidden_size": 576,
      "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192,
      "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "eos_token_id": 2,
      "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
      "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 49152})");
  EXPECT_EQ(smol.head_dim, 64);
  EXPECT_EQ(smol.rope_theta, 100000);
  EXPECT_FALSE(smol.rope_scaling);
  EXPECT_TRUE(smol.tied_head);
  const ModelConfig tiny = read(R"({"model_type": "llama", "hidden_act": "silu", "hidden_size": 2048,
      "intermediate_size": 5632, "max_position_embeddings": 2048, "num_attention_heads": 32,
      "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
      "rope_scaling": null, "tie_word_embeddings": false, "torch_dtype": "float32", "vocab_size": 32000})");
  EXPECT_EQ(tiny.kv_size(), 256);
  EXPECT_EQ(tiny.rope_theta, 10000);
  EXPECT_FALSE(tiny.tied_head);
}

TEST(ModelConfig, Qwen25AsTransformers5WritesIt) {
  const ModelConfig c = read(R"({"model_type": "qwen2", "dtype": "bfloat16", "hidden_act": "silu",
      "hidden_size": 1536, "intermediate_size": 8960, "layer_types": ["full_attention"],
      "max_position_embeddings": 32768, "num_attention_heads": 12, "num_hidden_layers": 28,
      "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 1000000.0,
      "rope_type": "default"}, "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
      "vocab_size": 151936})");
  EXPECT_EQ(c.rope_theta, 1000000);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.out_bias);
}

TEST(ModelConfig, Phi) {
  const char* phi2 = R"({"model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560,
      "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
      "partial_rotary_factor": 0.4, "qk_layernorm": false, "rope_scaling": null, "rope_theta": 10000.0,
      "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 51200})";
  const ModelConfig c = read(phi2);
  EXPECT_EQ(c.head_dim, 80);
  EXPECT_EQ(c.rope_dims, 32);
  EXPECT_TRUE(c.parallel_block && c.head_bias && c.mlp_bias);
  Json phi1 = Json::parse(phi2);  // half of a head where nothing says so
  phi1["hidden_size"] = 2048;
  phi1.erase("partial_rotary_factor");
  EXPECT_EQ(read_config(phi1, Json(), "config.json").rope_dims, 32);
}

// The real files, where they are.
TEST(ModelConfig, PublishedFiles) {
  const auto folder = testing::shared_dir() / "configs";
  NIBBLE_NEEDS(folder);
  const auto open = [&](const char* name) {
    return read_config(read_json_file(folder / name), Json(), name);
  };
  const ModelConfig llama = open("llama-3.2-1b.config.json");
  EXPECT_EQ(llama.head_dim, 64);
  EXPECT_EQ(llama.n_layers, 16);
  EXPECT_TRUE(llama.tied_head && llama.rope_scaling);
  const ModelConfig qwen = open("qwen2-0.5b.config.json");
  EXPECT_EQ(qwen.kv_size(), 128);
  EXPECT_TRUE(qwen.tied_head && qwen.qkv_bias && !qwen.rope_scaling);
  const ModelConfig phi = open("phi-1.5.config.json");
  EXPECT_EQ(phi.rope_dims, 32);
  EXPECT_TRUE(phi.end_tokens.empty() && phi.head_bias);
}

}  // namespace
}  // namespace nibble
