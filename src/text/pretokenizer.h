// The pre-tokenizer of tokenizer.json: where text is cut before BPE.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/splitter.h"
#include "text/vocabulary.h"

namespace nibble {

class PreTokenizer {
 public:
  // Split (Isolated), Digits, and Sequence of those; for a vocabulary of bytes with one ByteLevel, which
  // comes last, for one of text with Metaspace, or none at all. Everything else throws Error by its name.
  static PreTokenizer from_json(const Json& node, Spelling spelling, std::string_view where);

  // Calls emit(piece) for the pieces of `text` in order; pieces live until emit returns. Bytes that
  // are not valid UTF-8 make pieces of their own. at_start: nothing was before `text`, no token either.
  void split(std::string_view text, bool at_start, MatchState& state,
             const std::function<void(std::string_view)>& emit) const;

 private:
  enum class Prefix { kNever, kFirst, kAlways };
  struct Stage {
    std::optional<RegexSplitter> splitter;
    std::string space = " ";  // what stands for a space; Metaspace names a character
    Prefix prefix =
        Prefix::kNever;          // whether a piece begins with a space; kFirst: that at the start of a text
    bool cut_at_spaces = false;  // before each
  };
  struct Piece {
    std::string_view text;
    bool at_start;
  };
  void run(size_t stage, Piece piece, MatchState& state,
           const std::function<void(std::string_view)>& emit) const;
  void append(const Json& node, Spelling spelling, std::string_view where, int depth);
  static Stage metaspace(const Json& node, std::string_view where);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
};

}  // namespace nibble
