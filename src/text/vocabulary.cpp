#include "text/vocabulary.h"

#include <algorithm>

#include "text/byte_level.h"

namespace nibble {

int32_t token_id_from(const Json& value, std::string_view what, std::string_view where) {
  if (!value.is_number_integer()) {
    fail("{}: the id of {} is not an integer ({})", where, what, value.type_name());
  }
  // Unsigned numbers past int64 come back negative or wrapped; is_number_unsigned tells them apart.
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= uint64_t{kMaxTokenId}
                        : value.get<int64_t>() >= 0 && value.get<int64_t>() <= kMaxTokenId;
  if (!fits) fail("{}: the id {} of {} is outside 0…{}", where, value.dump(), what, kMaxTokenId);
  return value.get<int32_t>();
}

Vocabulary Vocabulary::from_json(const Json& vocab, Spelling spelling, std::string_view where) {
  if (!vocab.is_object()) fail("{}: 'vocab' is not an object ({})", where, vocab.type_name());
  if (vocab.empty()) fail("{}: 'vocab' is empty", where);
  Vocabulary result;
  result.spelling_ = spelling;
  result.by_bytes_.reserve(vocab.size());
  std::string bytes;
  for (const auto& [token, value] : vocab.items()) {
    const int32_t id = token_id_from(value, token, where);
    result.claim(id, token, where);
    if (spelling == Spelling::kText) {
      result.by_bytes_.emplace(token, id);
      result.bytes_[static_cast<size_t>(id)] = token;
    } else if (bytes_of_spelling(token, bytes)) {
      result.by_bytes_.emplace(bytes, id);
      result.bytes_[static_cast<size_t>(id)] = bytes;
    } else {
      result.plain_.emplace(token, id);
      result.bytes_[static_cast<size_t>(id)] = token;
    }
  }
  return result;
}

void Vocabulary::claim(int32_t id, const std::string& spelling, std::string_view where) {
  const auto at = static_cast<size_t>(id);
  if (at >= bytes_.size()) {
    bytes_.resize(at + 1);
    used_.resize(at + 1, false);
  }
  if (used_[at]) fail("{}: id {} is given to '{}' and to '{}'", where, id, spelling, bytes_[at]);
  used_[at] = true;
}

void Vocabulary::add_plain(const std::string& content, int32_t id, std::string_view where) {
  const int32_t known = find_spelling(content);
  if (known >= 0 && known != id) {
    fail("{}: '{}' has the ids {} and {}", where, content, known, id);
  }
  if (known < 0) claim(id, content, where);
  plain_.emplace(content, id);
  bytes_[static_cast<size_t>(id)] = content;
}

int32_t Vocabulary::find_bytes(std::string_view bytes) const {
  const auto found = by_bytes_.find(bytes);
  return found == by_bytes_.end() ? -1 : found->second;
}

int32_t Vocabulary::find_spelling(std::string_view spelling) const {
  if (const auto found = plain_.find(spelling); found != plain_.end()) return found->second;
  if (spelling_ == Spelling::kText) return find_bytes(spelling);
  std::string bytes;
  return bytes_of_spelling(spelling, bytes) ? find_bytes(bytes) : -1;
}

}  // namespace nibble
