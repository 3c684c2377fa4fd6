#include "eval/encoding.h"

#include <string>

#include "base/error.h"

namespace nibble {

bool truncate_left(std::vector<int32_t>& ids, size_t keep, int32_t start_token) {
  NIBBLE_CHECK(keep >= 1);
  if (ids.size() <= keep) return false;
  const bool starts = start_token >= 0 && ids.front() == start_token;
  ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(keep));
  if (starts) ids.front() = start_token;
  return true;
}

EncodedPair encode_pair(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation,
                        int max_context) {
  const size_t kept = context.find_last_not_of(' ') + 1;  // npos + 1 = 0
  const std::string whole_text = std::string(context) + std::string(continuation);
  EncodedPair pair;
  pair.request.context = tokenizer.encode(context.substr(0, kept));
  const std::vector<int32_t> whole = tokenizer.encode(whole_text);
  const size_t split = pair.request.context.size();
  if (split == 0) fail("a prompt of no tokens: a context must not be empty");
  if (whole.size() <= split)
    fail("the continuation '{}' has no tokens of its own after its prompt", continuation);
  pair.request.continuation.assign(whole.begin() + static_cast<std::ptrdiff_t>(split), whole.end());
  if (pair.request.continuation.size() + 2 > static_cast<size_t>(max_context)) {
    fail("a continuation of {} tokens does not fit the model's context of {}",
         pair.request.continuation.size(), max_context);
  }
  pair.truncated =
      truncate_left(pair.request.context, static_cast<size_t>(max_context) - pair.request.continuation.size(),
                    tokenizer.start_token());
  return pair;
}

EncodedPrompt encode_prompt(const Tokenizer& tokenizer, std::string_view prompt, int max_tokens) {
  EncodedPrompt encoded{tokenizer.encode(prompt), false};
  if (encoded.tokens.empty()) fail("a prompt of no tokens");
  encoded.truncated = truncate_left(encoded.tokens, static_cast<size_t>(max_tokens), tokenizer.start_token());
  return encoded;
}

}  // namespace nibble
