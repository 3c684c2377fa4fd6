// The pre-tokenizer of tokenizer.json: where text is cut before BPE.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/splitter.h"

namespace nibble {

class PreTokenizer {
 public:
  // Split (Isolated), Digits, ByteLevel, and Sequence of those with one ByteLevel, which comes
  // last; everything else throws Error by its name.
  static PreTokenizer from_json(const Json& node, std::string_view where);

  // Calls emit(piece) for the pieces of `text` in order; pieces live until emit returns. Bytes that
  // are not valid UTF-8 make pieces of their own.
  void split(std::string_view text, MatchState& state,
             const std::function<void(std::string_view)>& emit) const;

 private:
  struct Stage {
    std::optional<RegexSplitter> splitter;
    bool add_prefix_space = false;  // of ByteLevel: each piece begins with a space
  };
  void run(size_t stage, std::string_view text, MatchState& state,
           const std::function<void(std::string_view)>& emit) const;
  void append(const Json& node, std::string_view where, int depth);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
};

}  // namespace nibble
