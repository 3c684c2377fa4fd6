// GGUF version 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), read as
// untrusted input, and turned into a Checkpoint with Hugging Face names.
#pragma once

#include <filesystem>
#include <string>

#include "io/checkpoint.h"
#include "io/gguf_metadata.h"

namespace nibble {

// Types F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K; architectures llama,
// qwen2, phi2. The tokenizer's regex follows `tokenizer.ggml.pre`.
Checkpoint open_gguf(const std::filesystem::path& path, GgufDType dtype, bool with_tokenizer = true);

// The name in a GGUF of a tensor that Hugging Face calls `name`; "" for one that the architecture does not
// have there.
std::string gguf_tensor_name(GgufArchitecture architecture, const std::string& name);

// Only the tokenizer, as tokenizer.json would say it; reads the metadata, not the tensors.
Json read_gguf_tokenizer(const std::filesystem::path& path);

}  // namespace nibble
