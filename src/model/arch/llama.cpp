// Llama 3.2, SmolLM2: RMSNorm, SwiGLU, grouped-query attention, `llama3` rotary scaling.
#include "model/arch/architectures.h"

namespace nibble {

void arch::configure_llama_like(const Json& config, std::string_view where, ModelConfig& out) {
  out.norm = NormKind::kRms;
  out.norm_eps = json_get_or<float>(config, "rms_norm_eps", 1e-6f, where);
  out.mlp = MlpKind::kSwiGlu;
  const std::string act = json_get_or<std::string>(config, "hidden_act", "silu", where);
  if (act != "silu") fail("{}: hidden_act '{}' is not supported here, 'silu' is", where, act);
}

const TensorNames arch::kLlamaNames = {.q = "self_attn.q_proj",
                                       .k = "self_attn.k_proj",
                                       .v = "self_attn.v_proj",
                                       .o = "self_attn.o_proj",
                                       .gate = "mlp.gate_proj",
                                       .up = "mlp.up_proj",
                                       .down = "mlp.down_proj",
                                       .attn_norm = "input_layernorm",
                                       .mlp_norm = "post_attention_layernorm",
                                       .embedding = "model.embed_tokens",
                                       .final_norm = "model.norm",
                                       .head = "lm_head"};

namespace {
void configure_llama(const Json& config, std::string_view where, ModelConfig& out) {
  arch::configure_llama_like(config, where, out);
  out.qkv_bias = out.out_bias = json_get_or<bool>(config, "attention_bias", false, where);
  out.mlp_bias = json_get_or<bool>(config, "mlp_bias", false, where);
}
}  // namespace

const Architecture arch::kLlama = {"llama", "Llama", configure_llama, kLlamaNames};

}  // namespace nibble
