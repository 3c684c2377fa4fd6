// From text to the token ids that a model is given.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "eval/language_model.h"

namespace nibble {

// Context and continuation tokenized together, then split at the length of the tokenized context;
// trailing spaces of the context move to the continuation first (lm-evaluation-harness' rule). Ids
// are as the post-processor says, start token included. Of a pair longer than max_context tokens
// the context loses its head, not its start token. Throws Error when the continuation leaves no
// room for a context, or is empty once tokenized.
struct EncodedPair {
  LoglikRequest request;
  bool truncated = false;
};
EncodedPair encode_pair(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation,
                        int max_context);

// A prompt to generate from, at most max_tokens long, truncated likewise.
struct EncodedPrompt {
  std::vector<int32_t> tokens;
  bool truncated = false;
};
EncodedPrompt encode_prompt(const Tokenizer& tokenizer, std::string_view prompt, int max_tokens);

// Keeps the last `keep` ids, the first of which is the start token where `ids` began with it.
// Returns whether anything was cut. keep ≥ 1.
bool truncate_left(std::vector<int32_t>& ids, size_t keep, int32_t start_token);

}  // namespace nibble
