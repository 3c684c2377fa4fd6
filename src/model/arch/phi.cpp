// Phi-1, 1.5 and 2: attention and MLP side by side on one LayerNorm, partial rotary, gelu_new,
// biases everywhere.
#include "model/arch/architectures.h"

namespace nibble {
namespace {
void configure_phi(const Json& config, std::string_view where, ModelConfig& out) {
  out.norm = NormKind::kLayer;
  out.norm_eps = json_get_or<float>(config, "layer_norm_eps", 1e-5f, where);
  out.mlp = MlpKind::kGeluNew;
  out.parallel_block = true;
  out.rope_dims = out.head_dim / 2;  // where the configuration says nothing
  out.qkv_bias = out.out_bias = out.mlp_bias = out.head_bias = true;
  const std::string act = json_get_or<std::string>(config, "hidden_act", "gelu_new", where);
  if (act != "gelu_new") fail("{}: hidden_act '{}' is not supported here, 'gelu_new' is", where, act);
  if (json_get_or<bool>(config, "qk_layernorm", false, where))
    fail("{}: qk_layernorm is not supported", where);
}
}  // namespace

const Architecture arch::kPhi = {"phi",
                                 "Phi",
                                 configure_phi,
                                 {.q = "self_attn.q_proj",
                                  .k = "self_attn.k_proj",
                                  .v = "self_attn.v_proj",
                                  .o = "self_attn.dense",
                                  .gate = nullptr,
                                  .up = "mlp.fc1",
                                  .down = "mlp.fc2",
                                  .attn_norm = "input_layernorm",
                                  .mlp_norm = nullptr,
                                  .embedding = "model.embed_tokens",
                                  .final_norm = "model.final_layernorm",
                                  .head = "lm_head"}};

}  // namespace nibble
