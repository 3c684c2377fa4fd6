// Tokens by id, by their bytes and by their spelling in tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"

namespace nibble {

// Far above any vocabulary in use (the largest have 262,144 tokens); bounds what a file can make us allocate.
constexpr int32_t kMaxTokenId = (1 << 22) - 1;

// value as a token id; throws Error naming `what` when it is not an integer in [0, kMaxTokenId].
int32_t token_id_from(const Json& value, std::string_view what, std::string_view where);

// What the spelling of a token in tokenizer.json stands for.
enum class Spelling {
  kByteLevel,  // bytes, in GPT-2's alphabet
  kText,       // text as it is after the normalizer; a single byte may be spelled <0x0A>
};

class Vocabulary {
 public:
  // {"spelling": id, …}; throws Error for ids that are out of range or given twice.
  static Vocabulary from_json(const Json& vocab, Spelling spelling, std::string_view where);

  // An added token, whose content is plain text. Its id may already stand for the same content.
  void add_plain(const std::string& content, int32_t id, std::string_view where);

  // Among the tokens that are no added ones and, of Spelling::kByteLevel, are in the byte alphabet; -1:
  // absent.
  int32_t find_bytes(std::string_view bytes) const;
  int32_t find_spelling(std::string_view spelling) const;               // -1: absent
  int32_t size() const { return static_cast<int32_t>(bytes_.size()); }  // highest id + 1
  const std::string& bytes(int32_t id) const { return bytes_[static_cast<size_t>(id)]; }

  // Replaces what bytes() gives of each token by f(what it gave).
  template <typename F>
  void change_bytes(F&& f) {
    for (std::string& bytes : bytes_) bytes = f(bytes);
  }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  using Ids = std::unordered_map<std::string, int32_t, Hash, std::equal_to<>>;

  void claim(int32_t id, const std::string& spelling, std::string_view where);

  Spelling spelling_ = Spelling::kByteLevel;
  std::vector<std::string> bytes_;  // by id; empty for ids that stand for nothing
  std::vector<bool> used_;
  Ids by_bytes_;
  Ids plain_;  // added tokens, and tokens with characters outside the byte alphabet
};

}  // namespace nibble
