// What Hugging Face's JSON files would say, from a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "io/gguf_file.h"

namespace nibble {

enum class GgufArchitecture { kLlama, kQwen2, kPhi2 };
GgufArchitecture gguf_architecture(const GgufFile& gguf);  // throws Error for any other

// Counts of `<architecture>.attention.head_count` and …_kv; each at least 1.
struct GgufHeads {
  int64_t n_heads, n_kv_heads, head_dim;
};
GgufHeads gguf_heads(const GgufFile& gguf);

// config.json. `vocab_size`: rows of the embedding; `tied`: there is no head of its own;
// `torch_dtype`: "bfloat16" or "float32".
Json gguf_config(const GgufFile& gguf, int64_t vocab_size, bool tied, std::string_view torch_dtype);

// generation_config.json: the ids that start and end a text.
Json gguf_generation_config(const GgufFile& gguf);

// tokenizer.json of a BPE tokenizer: of bytes (`tokenizer.ggml.model` "gpt2"), whose pre-tokenizer follows
// `tokenizer.ggml.pre`, or of SentencePiece's kind ("llama"), whose merges follow the scores
// (io/sentencepiece.h). Throws Error for kinds that are not supported, by their names.
Json gguf_tokenizer(const GgufFile& gguf);

// The name that llama.cpp has for the way this tokenizer.json splits text; "" when it has none that is known
// here.
std::string gguf_pre_tokenizer(const Json& tokenizer);
// The same of a tokenizer of SentencePiece's kind: whether a space goes before every text; none: it is
// another way.
std::optional<bool> gguf_space_prefix(const Json& tokenizer);

// llama.cpp's types of tokens.
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

}  // namespace nibble
