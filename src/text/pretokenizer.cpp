#include "text/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/nesting.h"
#include "text/replacement.h"
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

PreTokenizer PreTokenizer::from_json(const Json& node, Spelling spelling, std::string_view where) {
  const std::string place = fmt::format("{}: pre_tokenizer", where);
  const bool bytes = spelling == Spelling::kByteLevel;
  PreTokenizer result;
  if (node.is_null() && bytes) fail("{} is missing; a BPE without 'byte_fallback' needs ByteLevel", place);
  if (!node.is_null()) result.append(node, spelling, place, 0);
  if (bytes && !result.byte_level_) fail("{} has no ByteLevel, and the model no 'byte_fallback'", place);
  return result;
}

void PreTokenizer::append(const Json& node, Spelling spelling, std::string_view where, int depth) {
  const auto type = json_get<std::string>(node, "type", where);
  if (byte_level_) fail("{}: '{}' after ByteLevel is not supported", where, type);
  if (stages_.size() >= kMaxStages) fail("{}: more than {} steps", where, kMaxStages);
  if (type == "Sequence") {
    if (depth >= kMaxNesting) fail("{}: nested deeper than {} levels", where, kMaxNesting);
    const auto inner = node.find("pretokenizers");
    if (inner == node.end() || !inner->is_array())
      fail("{}: Sequence: 'pretokenizers' is not an array", where);
    for (const Json& child : *inner) append(child, spelling, where, depth + 1);
  } else if (type == "Split") {
    stages_.push_back({split_of(node, where)});
  } else if (type == "Digits") {
    const bool single = json_get_or<bool>(node, "individual_digits", false, where);
    stages_.push_back({RegexSplitter::from_pattern(single ? R"(\p{N})" : R"(\p{N}+)", where)});
  } else if (type == "ByteLevel" && spelling == Spelling::kByteLevel) {
    Stage stage;
    if (json_get_or<bool>(node, "add_prefix_space", true, where)) stage.prefix = Prefix::kAlways;
    if (json_get_or<bool>(node, "use_regex", true, where)) {
      stage.splitter = RegexSplitter::from_pattern(kGpt2Pattern, where);
    }
    stages_.push_back(std::move(stage));
    byte_level_ = true;
  } else if (type == "Metaspace" && spelling == Spelling::kText) {
    stages_.push_back(metaspace(node, where));
  } else {
    fail("{} '{}' is not supported (Split, Digits, {} and Sequence are)", where, type,
         spelling == Spelling::kText ? "Metaspace" : "ByteLevel");
  }
}

PreTokenizer::Stage PreTokenizer::metaspace(const Json& node, std::string_view where) {
  Stage stage;
  stage.space = json_get<std::string>(node, "replacement", where);
  const CodePoint first = first_code_point(stage.space);
  if (first.value < 0 || first.size != stage.space.size())
    fail("{}: the replacement '{}' of Metaspace is not one character", where, stage.space);
  const bool prefixes =
      json_get_or<bool>(node, "add_prefix_space", true, where);  // before prepend_scheme was
  const auto scheme = json_get_or<std::string>(node, "prepend_scheme", prefixes ? "always" : "never", where);
  if (scheme == "always") {
    stage.prefix = Prefix::kAlways;
  } else if (scheme == "first") {
    stage.prefix = Prefix::kFirst;
  } else if (scheme != "never") {
    fail("{}: the prepend_scheme '{}' of Metaspace is not supported (always, first, never are)", where,
         scheme);
  }
  if (!prefixes && scheme != "never")
    fail("{}: Metaspace has the prepend_scheme '{}', but no add_prefix_space", where, scheme);
  stage.cut_at_spaces = json_get_or<bool>(node, "split", true, where);
  return stage;
}

void PreTokenizer::split(std::string_view text, bool at_start, MatchState& state,
                         const std::function<void(std::string_view)>& emit) const {
  const char* const start = text.data();
  for_each_utf8_run(
      text,
      [&](std::string_view run_text) {
        run(0, {run_text, at_start && run_text.data() == start}, state, emit);
      },
      emit);
}

void PreTokenizer::run(size_t stage, Piece piece, MatchState& state,
                       const std::function<void(std::string_view)>& emit) const {
  if (stage == stages_.size()) return emit(piece.text);
  const Stage& now = stages_[stage];
  const bool prefixed = now.prefix == Prefix::kAlways || (now.prefix == Prefix::kFirst && piece.at_start);
  std::string changed;
  if (now.space != " ") {
    changed = piece.text;
    Replacement(" ", now.space).apply(changed);
    piece.text = changed;
  }
  if (prefixed && !piece.text.starts_with(now.space)) {
    changed = now.space + std::string(piece.text);
    piece.text = changed;
  }
  const auto pass_on = [&](std::string_view part) {
    run(stage + 1, {part, piece.at_start && part.data() == piece.text.data()}, state, emit);
  };
  if (now.splitter) return now.splitter->split(piece.text, state, pass_on);
  if (!now.cut_at_spaces) return pass_on(piece.text);
  for (std::string_view rest = piece.text; !rest.empty();) {
    const size_t end = std::min(rest.find(now.space, now.space.size()), rest.size());
    pass_on(rest.substr(0, end));
    rest.remove_prefix(end);
  }
}

}  // namespace nibble
