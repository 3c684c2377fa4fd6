#include "text/post_processor.h"

#include <string>

#include "text/nesting.h"
#include "text/vocabulary.h"

namespace nibble {
namespace {

std::vector<int32_t> ids_of_special(const Json& tokens, const std::string& name, int32_t vocab_size,
                                    std::string_view where) {
  const auto entry = tokens.find(name);
  if (entry == tokens.end()) fail("{}: '{}' is not among 'special_tokens'", where, name);
  const auto ids = entry->is_object() ? entry->find("ids") : entry->end();
  if (ids == entry->end() || !ids->is_array()) fail("{}: special token '{}' has no array 'ids'", where, name);
  std::vector<int32_t> result;
  for (const Json& id : *ids) {
    result.push_back(token_id_from(id, name, where));
    if (result.back() >= vocab_size) {
      fail("{}: special token '{}' has the id {}, past the vocabulary of {}", where, name, result.back(),
           vocab_size);
    }
  }
  return result;
}

}  // namespace

PostProcessor PostProcessor::from_json(const Json& node, int32_t vocab_size, std::string_view where) {
  PostProcessor result;
  if (!node.is_null()) result.append(node, vocab_size, fmt::format("{}: post_processor", where), 0);
  return result;
}

void PostProcessor::append(const Json& node, int32_t vocab_size, std::string_view where, int depth) {
  const auto type = json_get<std::string>(node, "type", where);
  if (type == "ByteLevel") return;
  if (type == "TemplateProcessing") return append_template(node, vocab_size, where);
  if (type != "Sequence") {
    fail("{} '{}' is not supported (ByteLevel, TemplateProcessing and Sequence are)", where, type);
  }
  if (depth >= kMaxNesting) fail("{}: nested deeper than {} levels", where, kMaxNesting);
  const auto inner = node.find("processors");
  if (inner == node.end() || !inner->is_array()) fail("{}: Sequence: 'processors' is not an array", where);
  for (const Json& child : *inner) append(child, vocab_size, where, depth + 1);
}

// "single": special tokens around {"Sequence": {"id": "A"}}, the text.
void PostProcessor::append_template(const Json& node, int32_t vocab_size, std::string_view where) {
  const auto single = node.find("single");
  if (single == node.end() || !single->is_array()) fail("{}: 'single' is not an array", where);
  static const Json kNone = Json::object();
  const auto given = node.find("special_tokens");
  const Json& special = given == node.end() || given->is_null() ? kNone : *given;
  if (!special.is_object()) fail("{}: 'special_tokens' is not an object", where);

  std::vector<int32_t> before, after;
  bool text_seen = false;
  for (const Json& item : *single) {
    if (item.is_object() && item.contains("Sequence")) {
      const auto id = json_get<std::string>(item["Sequence"], "id", where);
      if (id != "A" || text_seen) fail("{}: 'single' must name the sequence A once ('{}')", where, id);
      text_seen = true;
    } else if (item.is_object() && item.contains("SpecialToken")) {
      const auto ids = ids_of_special(special, json_get<std::string>(item["SpecialToken"], "id", where),
                                      vocab_size, where);
      auto& side = text_seen ? after : before;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      fail("{}: 'single' holds something that is neither SpecialToken nor Sequence", where);
    }
  }
  if (!text_seen) fail("{}: 'single' does not name the sequence A", where);
  // A later template goes around what the earlier ones made.
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
}

}  // namespace nibble
