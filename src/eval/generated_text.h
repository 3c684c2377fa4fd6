// The text of a sequence that is being generated, token by token, and its end at a stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nibble {

class GeneratedText {
 public:
  GeneratedText(const Tokenizer& tokenizer, std::span<const std::string> stop)
      : tokenizer_(tokenizer), stop_(stop) {}

  // Appends a token. True when the text now contains a stop string, which may span tokens and may be
  // the spelling of a special token; the text is then cut before it and takes no more.
  bool add(int32_t token);
  // Without special tokens.
  const std::string& text() const { return text_; }

 private:
  const Tokenizer& tokenizer_;
  std::span<const std::string> stop_;
  std::string text_, spelled_;  // spelled_: with special tokens
  struct Special {
    size_t begin, size;  // in spelled_
  };
  std::vector<Special> specials_;
};

}  // namespace nibble
