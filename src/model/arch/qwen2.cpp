// Qwen2 and Qwen2.5: Llama's block with biases on q, k and v.
#include "model/arch/architectures.h"

namespace nibble {
namespace {
void configure_qwen2(const Json& config, std::string_view where, ModelConfig& out) {
  arch::configure_llama_like(config, where, out);
  out.qkv_bias = true;
  if (json_get_or<bool>(config, "use_sliding_window", false, where))
    fail("{}: sliding-window attention is not supported", where);
}
}  // namespace

const Architecture arch::kQwen2 = {"qwen2", "Qwen2", configure_qwen2, arch::kLlamaNames};

}  // namespace nibble
