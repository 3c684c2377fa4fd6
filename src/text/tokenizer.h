// BPE tokenizers as described by Hugging Face's tokenizer.json: of bytes (GPT-2, Llama 3, Qwen2), and of text
// with bytes for what the vocabulary lacks (SentencePiece's byte_fallback: Llama 2, TinyLlama).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibble {

// Immutable after construction; encode and decode may be called from several threads.
class Tokenizer {
 public:
  // From the parsed tokenizer.json; `where` names it in errors. Throws Error for a model,
  // normalizer, pre-tokenizer or post-processor that is not supported, by its name.
  static Tokenizer from_json(const Json& json, std::string_view where);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Ids of UTF-8 text (bytes that are not valid UTF-8 are encoded as bytes); added tokens in the
  // text are recognised. add_special: also what the post-processor adds (a start token).
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;

  // Bytes of the ids joined; special tokens left out when skip_special. Ids out of range throw. A space that
  // the tokenizer puts before every text (SentencePiece's do) is taken away again.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;
  // The same of ids from the midst of a text, which keep a space that they begin with.
  std::string decode_within(std::span<const int32_t> ids, bool skip_special = true) const;
  std::string token_bytes(int32_t id) const;  // the bytes of one token in the midst of a text, special or not

  int32_t vocab_size() const;                      // highest id + 1
  int32_t start_token() const;                     // what the post-processor puts first, or -1
  int32_t token_id(std::string_view token) const;  // -1 when absent; token as tokenizer.json spells it
  bool is_special(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
