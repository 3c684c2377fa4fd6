// The supported architectures: one line here, one file each.
#pragma once

#include "model/config.h"

namespace nibble::arch {

extern const Architecture kLlama, kQwen2, kPhi;

// What Llama and Qwen2 share.
void configure_llama_like(const Json& config, std::string_view where, ModelConfig& out);
extern const TensorNames kLlamaNames;

}  // namespace nibble::arch
