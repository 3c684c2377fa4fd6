#include "eval/generated_text.h"

#include <algorithm>

namespace nibble {

bool GeneratedText::add(int32_t token) {
  // A model's vocabulary may be padded past the tokenizer's: such tokens spell nothing.
  if (token < 0 || token >= tokenizer_.vocab_size()) return false;
  const std::string bytes = tokenizer_.token_bytes(token);
  const size_t before = spelled_.size();
  spelled_ += bytes;
  if (tokenizer_.is_special(token)) {
    specials_.push_back({before, bytes.size()});
  } else {
    text_ += bytes;
  }
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) {
    if (stop.empty()) continue;
    const size_t from = before >= stop.size() - 1 ? before - (stop.size() - 1) : 0;
    cut = std::min(cut, spelled_.find(stop, from));
  }
  if (cut == std::string::npos) return false;
  size_t kept = cut;
  for (const Special& special : specials_) {
    if (special.begin < cut) kept -= std::min(special.size, cut - special.begin);
  }
  text_.resize(kept);
  return true;
}

}  // namespace nibble
