// The normalizer of tokenizer.json: none, NFC, Prepend, Replace, or a sequence of those.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/replacement.h"

namespace nibble {

class Normalizer {
 public:
  // `node` may be null. Throws Error naming a normalizer that is not supported.
  static Normalizer from_json(const Json& node, std::string_view where);

  bool changes_nothing() const { return steps_.empty(); }
  // Bytes that are not valid UTF-8 stay as they are. An empty text stays empty.
  std::string normalize(std::string_view text) const;

 private:
  struct Step {  // NFC where it has neither
    std::string prefix;
    std::optional<Replacement> replacement;
  };
  void append(const Json& node, std::string_view where, int depth);

  std::vector<Step> steps_;
};

}  // namespace nibble
