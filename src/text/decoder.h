// The decoder of tokenizer.json: the bytes that a token stands for.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "text/replacement.h"
#include "text/vocabulary.h"

namespace nibble {

class Decoder {
 public:
  // Bytes: ByteLevel or none. Text: Sequence of Replace (optional), ByteFallback, Fuse and Strip of leading
  // spaces (optional). Throws Error for others by name.
  static Decoder from_json(const Json& node, Spelling spelling, std::string_view where);

  // What a token of this spelling stands for, in the midst of a text. Of Spelling::kText alone.
  std::string bytes(std::string_view spelled) const;
  // Takes the spaces away that a text begins with and that the normalizer or pre-tokenizer had put there.
  void strip(std::string& text) const;

 private:
  void read_steps(const Json& steps, std::string_view where);

  std::optional<Replacement> replacement_;
  size_t stripped_spaces_ = 0;
};

}  // namespace nibble
