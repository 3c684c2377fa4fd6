// One text for another, as the Replace of tokenizer.json's normalizers and decoders.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace nibble {

// {"pattern": {"String": …}, "content": …}. Such a step makes a text at most kMaxGrowth times as long.
class Replacement {
 public:
  static constexpr size_t kMaxGrowth = 4;

  // Throws Error for an empty pattern, a regular expression, and a content that is much longer.
  static Replacement from_json(const Json& node, std::string_view where);
  Replacement(std::string pattern, std::string content);

  void apply(std::string& text) const;  // everywhere, from the left
  const std::string& pattern() const { return pattern_; }
  const std::string& content() const { return content_; }

 private:
  std::string pattern_, content_;
};

}  // namespace nibble
