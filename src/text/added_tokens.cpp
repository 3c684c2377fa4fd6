#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"
#include "text/vocabulary.h"

namespace nibble {

std::vector<AddedToken> added_tokens_from_json(const Json& node, std::string_view where) {
  if (node.is_null()) return {};
  if (!node.is_array()) fail("{}: 'added_tokens' is not an array ({})", where, node.type_name());
  std::vector<AddedToken> tokens;
  tokens.reserve(node.size());
  for (const Json& entry : node) {
    const std::string place = fmt::format("{}: added_tokens[{}]", where, tokens.size());
    AddedToken token;
    token.content = json_get<std::string>(entry, "content", place);
    if (!entry.contains("id")) fail("{}: 'id' is missing", place);
    token.id = token_id_from(entry["id"], token.content, place);
    token.special = json_get_or<bool>(entry, "special", false, place);
    token.normalized = json_get_or<bool>(entry, "normalized", !token.special, place);
    token.single_word = json_get_or<bool>(entry, "single_word", false, place);
    token.lstrip = json_get_or<bool>(entry, "lstrip", false, place);
    token.rstrip = json_get_or<bool>(entry, "rstrip", false, place);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

uint32_t AddedTokenMatcher::child_of(uint32_t node, unsigned char byte) const {
  const auto& children = nodes_[node].children;
  const auto found = std::ranges::lower_bound(children, byte, {}, &std::pair<unsigned char, uint32_t>::first);
  return found != children.end() && found->first == byte ? found->second : 0;
}

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  uint32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t next = child_of(node, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      auto& children = nodes_[node].children;
      const auto at =
          std::ranges::lower_bound(children, byte, {}, &std::pair<unsigned char, uint32_t>::first);
      children.insert(at, {byte, next});
    }
    node = next;
  }
  if (nodes_[node].rule >= 0) return;
  nodes_[node].rule = static_cast<int32_t>(rules_.size());
  rules_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
}

bool AddedTokenMatcher::find(std::string_view text, size_t from, size_t done, Found& found) const {
  if (rules_.empty()) return false;
  for (size_t begin = from; begin < text.size(); ++begin) {
    uint32_t node = 0;
    int32_t best = -1;
    size_t end = begin;
    for (size_t at = begin; at < text.size(); ++at) {
      node = child_of(node, static_cast<unsigned char>(text[at]));
      if (node == 0) break;
      if (nodes_[node].rule >= 0) {
        best = nodes_[node].rule;
        end = at + 1;
      }
    }
    if (best < 0) continue;
    const Rule& rule = rules_[static_cast<size_t>(best)];
    const std::string_view before = text.substr(0, begin), after = text.substr(end);
    if (rule.single_word && (is_word_character(last_code_point(before).value) ||
                             is_word_character(first_code_point(after).value))) {
      begin = end - 1;  // as in Hugging Face, the search goes on behind it
      continue;
    }
    found = {begin, end, end, rule.id};
    // White space that an earlier token took along is not taken again.
    while (rule.lstrip && found.begin > done) {
      const CodePoint c = last_code_point(text.substr(0, found.begin));
      if (!is_white_space(c.value)) break;
      found.begin -= c.size;
    }
    while (rule.rstrip) {
      const CodePoint c = first_code_point(text.substr(found.end));
      if (!is_white_space(c.value)) break;
      found.end += c.size;
    }
    return true;
  }
  return false;
}

}  // namespace nibble
