#include "text/decoder.h"

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "text/byte_level.h"

namespace nibble {
namespace {

size_t spaces_stripped_by(const Json& node, std::string_view where) {
  const auto content = json_get<std::string>(node, "content", where);
  const auto start = json_get<int64_t>(node, "start", where), stop = json_get<int64_t>(node, "stop", where);
  if (content != " " || stop != 0 || start < 0) {
    fail("{}: Strip of '{}', {} at the start and {} at the end, is not supported (spaces at the start are)",
         where, content, start, stop);
  }
  return static_cast<size_t>(start);
}

}  // namespace

Decoder Decoder::from_json(const Json& node, Spelling spelling, std::string_view where) {
  const std::string place = fmt::format("{}: decoder", where);
  Decoder result;
  if (node.is_null() && spelling == Spelling::kByteLevel) return result;  // joins bytes, as ByteLevel does
  if (node.is_null()) fail("{} is missing; a BPE with 'byte_fallback' needs one", place);
  const auto type = json_get<std::string>(node, "type", place);
  const std::string_view wanted = spelling == Spelling::kByteLevel ? "ByteLevel" : "Sequence";
  if (type != wanted) fail("{} '{}' is not supported ({} is)", place, type, wanted);
  if (spelling == Spelling::kByteLevel) return result;
  const auto steps = node.find("decoders");
  if (steps == node.end() || !steps->is_array()) fail("{}: Sequence: 'decoders' is not an array", place);
  result.read_steps(*steps, place);
  return result;
}

// In another order they would mean something else.
void Decoder::read_steps(const Json& steps, std::string_view where) {
  constexpr std::string_view kOrder[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
  size_t next = 0;
  bool seen[std::size(kOrder)] = {};
  for (const Json& step : steps) {
    const auto type = json_get<std::string>(step, "type", where);
    const size_t at = static_cast<size_t>(std::ranges::find(kOrder, type) - kOrder);
    if (at < next || at == std::size(kOrder)) {
      fail("{}: '{}' is not supported there (Replace, ByteFallback, Fuse, Strip are, in this order)", where,
           type);
    }
    if (type == "Replace") replacement_ = Replacement::from_json(step, where);
    if (type == "Strip") stripped_spaces_ = spaces_stripped_by(step, where);
    seen[at] = true;
    next = at + 1;
  }
  if (!seen[1]) fail("{}: no ByteFallback, though the model has 'byte_fallback'", where);
  if (seen[3] && !seen[2]) fail("{}: Strip without Fuse, which strips every token, is not supported", where);
}

std::string Decoder::bytes(std::string_view spelled) const {
  std::string text(spelled);
  if (replacement_) replacement_->apply(text);
  if (const int byte = byte_of_spelling(text); byte >= 0) text.assign(1, static_cast<char>(byte));
  return text;
}

void Decoder::strip(std::string& text) const {
  const size_t spaces = std::min(text.find_first_not_of(' '), text.size());
  text.erase(0, std::min(spaces, stripped_spaces_));
}

}  // namespace nibble
