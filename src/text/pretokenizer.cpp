#include "text/pretokenizer.h"

#include <utility>

#include "base/error.h"
#include "text/nesting.h"
#include "text/unicode.h"

namespace nibble {
namespace {

constexpr size_t kMaxStages = 64;

// openai/gpt-2 encoder.py, as Hugging Face's ByteLevel has it.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

RegexSplitter split_of(const Json& node, std::string_view where) {
  const auto behavior = json_get<std::string>(node, "behavior", where);
  if (behavior != "Isolated") fail("{}: Split behavior '{}' is not supported (Isolated is)", where, behavior);
  if (json_get_or<bool>(node, "invert", false, where))
    fail("{}: Split with 'invert' is not supported", where);
  const auto pattern = node.find("pattern");
  if (pattern == node.end() || !pattern->is_object()) fail("{}: Split has no 'pattern' object", where);
  if (pattern->contains("String")) {
    return RegexSplitter::from_literal(json_get<std::string>(*pattern, "String", where), where);
  }
  return RegexSplitter::from_pattern(json_get<std::string>(*pattern, "Regex", where), where);
}

}  // namespace

PreTokenizer PreTokenizer::from_json(const Json& node, std::string_view where) {
  const std::string place = fmt::format("{}: pre_tokenizer", where);
  if (node.is_null()) fail("{} is missing; a byte-level BPE needs ByteLevel", place);
  PreTokenizer result;
  result.append(node, place, 0);
  if (!result.byte_level_) fail("{} has no ByteLevel; only byte-level BPE is supported", place);
  return result;
}

void PreTokenizer::append(const Json& node, std::string_view where, int depth) {
  const auto type = json_get<std::string>(node, "type", where);
  if (byte_level_) fail("{}: '{}' after ByteLevel is not supported", where, type);
  if (stages_.size() >= kMaxStages) fail("{}: more than {} steps", where, kMaxStages);
  if (type == "Sequence") {
    if (depth >= kMaxNesting) fail("{}: nested deeper than {} levels", where, kMaxNesting);
    const auto inner = node.find("pretokenizers");
    if (inner == node.end() || !inner->is_array())
      fail("{}: Sequence: 'pretokenizers' is not an array", where);
    for (const Json& child : *inner) append(child, where, depth + 1);
  } else if (type == "Split") {
    stages_.push_back({split_of(node, where)});
  } else if (type == "Digits") {
    const bool single = json_get_or<bool>(node, "individual_digits", false, where);
    stages_.push_back({RegexSplitter::from_pattern(single ? R"(\p{N})" : R"(\p{N}+)", where)});
  } else if (type == "ByteLevel") {
    Stage stage;
    stage.add_prefix_space = json_get_or<bool>(node, "add_prefix_space", true, where);
    if (json_get_or<bool>(node, "use_regex", true, where)) {
      stage.splitter = RegexSplitter::from_pattern(kGpt2Pattern, where);
    }
    stages_.push_back(std::move(stage));
    byte_level_ = true;
  } else {
    fail("{} '{}' is not supported (Split, Digits, ByteLevel and Sequence are)", where, type);
  }
}

void PreTokenizer::split(std::string_view text, MatchState& state,
                         const std::function<void(std::string_view)>& emit) const {
  for_each_utf8_run(
      text, [&](std::string_view run_text) { run(0, run_text, state, emit); }, emit);
}

void PreTokenizer::run(size_t stage, std::string_view text, MatchState& state,
                       const std::function<void(std::string_view)>& emit) const {
  if (stage == stages_.size()) return emit(text);
  const Stage& now = stages_[stage];
  std::string prefixed;
  if (now.add_prefix_space && !text.starts_with(' ')) {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  if (!now.splitter) return run(stage + 1, text, state, emit);
  now.splitter->split(text, state, [&](std::string_view piece) { run(stage + 1, piece, state, emit); });
}

}  // namespace nibble
