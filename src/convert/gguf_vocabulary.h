// The tokenizer of a GGUF file out of tokenizer.json.
#pragma once

#include <cstddef>
#include <string>

#include "base/json.h"
#include "io/gguf_writer.h"

namespace nibble {

// Tokens with their types, and merges ("gpt2") or scores ("llama"). Ids below vocab_size that the tokenizer
// leaves out become unused tokens. Throws Error where llama.cpp would split or merge otherwise than it.
void add_gguf_vocabulary(GgufWriter& writer, const Json& tokenizer, size_t vocab_size,
                         const std::string& where);

}  // namespace nibble
