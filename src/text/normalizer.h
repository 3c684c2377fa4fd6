// The normalizer of tokenizer.json: none, NFC, or a sequence of those.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace nibble {

class Normalizer {
 public:
  // `node` may be null. Throws Error naming a normalizer that is not supported.
  static Normalizer from_json(const Json& node, std::string_view where);

  bool changes_nothing() const { return !nfc_; }
  // Bytes that are not valid UTF-8 stay as they are.
  std::string normalize(std::string_view text) const;

 private:
  bool nfc_ = false;  // NFC twice is NFC
};

}  // namespace nibble
