// What a model is, as features: nothing outside model/arch/ asks for a model's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibble {

enum class NormKind { kRms, kLayer };
enum class MlpKind { kSwiGlu, kGeluNew };

// Llama 3's stretching of the rotary frequencies.
struct RopeScaling {
  float factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int original_context = 8192;  // tokens
};

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2", "phi"
  int n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int hidden_size = 0, intermediate_size = 0, vocab_size = 0;
  int max_context = 0;  // tokens that positions were trained or stretched for

  NormKind norm = NormKind::kRms;
  float norm_eps = 1e-6f;
  MlpKind mlp = MlpKind::kSwiGlu;
  bool parallel_block = false;  // attention and MLP read the same norm and are added together
  bool qkv_bias = false, out_bias = false, mlp_bias = false, head_bias = false;
  bool tied_head = false;  // the head is the embedding

  float rope_theta = 10000;
  int rope_dims = 0;  // of head_dim, even; the rest is not rotated
  std::optional<RopeScaling> rope_scaling;

  std::vector<int32_t> end_tokens;  // generation stops at any of them

  int query_size() const { return n_heads * head_dim; }
  int kv_size() const { return n_kv_heads * head_dim; }
  bool has_gate() const { return mlp == MlpKind::kSwiGlu; }
  void validate(std::string_view where) const;  // throws Error
};

// The names of a block's tensors after "model.layers.N.", and of the rest.
struct TensorNames {
  const char *q, *k, *v, *o, *gate, *up, *down;  // gate: null where the MLP has none
  const char *attn_norm, *mlp_norm;              // mlp_norm: null in a parallel block
  const char *embedding, *final_norm, *head;     // whole names
};

// One supported architecture: its config.json keys turned into features, and its tensors' names.
struct Architecture {
  std::string_view model_type;  // config.json's "model_type"
  std::string_view title;
  void (*configure)(const Json& config, std::string_view where, ModelConfig& out);
  TensorNames names;
};

// Throws Error naming the supported ones when there is no such architecture.
const Architecture& find_architecture(std::string_view model_type, std::string_view where);

// From config.json (and generation_config.json's end tokens, which may be null).
ModelConfig read_config(const Json& config, const Json& generation_config, std::string_view where);

}  // namespace nibble
