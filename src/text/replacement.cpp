#include "text/replacement.h"

#include <utility>

#include "base/error.h"

namespace nibble {

Replacement Replacement::from_json(const Json& node, std::string_view where) {
  const auto pattern = node.find("pattern");
  if (pattern == node.end() || !pattern->is_object()) fail("{}: Replace has no 'pattern' object", where);
  if (!pattern->contains("String")) fail("{}: Replace of a regular expression is not supported", where);
  auto text = json_get<std::string>(*pattern, "String", where);
  auto content = json_get<std::string>(node, "content", where);
  if (text.empty()) fail("{}: Replace of an empty text", where);
  if (content.size() > kMaxGrowth * text.size()) {
    fail("{}: Replace of '{}' by a text of {} bytes, more than {} times as long", where, text, content.size(),
         kMaxGrowth);
  }
  return {std::move(text), std::move(content)};
}

Replacement::Replacement(std::string pattern, std::string content)
    : pattern_(std::move(pattern)), content_(std::move(content)) {}

void Replacement::apply(std::string& text) const {
  size_t at = text.find(pattern_);
  if (at == std::string::npos) return;
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(pattern_, done)) {
    out.append(text, done, at - done).append(content_);
    done = at + pattern_.size();
  }
  out.append(text, done);
  text = std::move(out);
}

}  // namespace nibble
