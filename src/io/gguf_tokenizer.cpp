#include <limits>
#include <optional>

#include "base/error.h"
#include "io/gguf_metadata.h"
#include "io/quote_name.h"
#include "io/sentencepiece.h"

namespace nibble {
namespace {

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kSpacePiece = "\u2581";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Types that tokenizer.json lists as added tokens.
constexpr int64_t kControl = static_cast<int64_t>(GgufTokenType::kControl),
                  kUserDefined = static_cast<int64_t>(GgufTokenType::kUserDefined);

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(Json first, Json second) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({std::move(first), std::move(second)})}};
}

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

// A family's rules, by the name that llama.cpp gives its pre-tokenizer.
struct Family {
  Json pre_tokenizer;
  Json normalizer = nullptr;
  Json decoder = byte_level(true);
  bool ignore_merges = false;
  bool start_token = false;  // what holds when the file does not say
};

// The family of a name; nullopt when it is not known here.
std::optional<Family> family_named(std::string_view pre) {
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    return Family{.pre_tokenizer = sequence(split(kLlama3Pattern), byte_level(false)),
                  .ignore_merges = true,
                  .start_token = true};
  }
  if (pre == "qwen2") {
    return Family{.pre_tokenizer = sequence(split(kQwen2Pattern), byte_level(false)),
                  .normalizer = {{"type", "NFC"}}};
  }
  if (pre == "smollm") {
    return Family{.pre_tokenizer =
                      sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true))};
  }
  if (pre == "gpt-2" || pre == "phi-2" || pre == "default") return Family{.pre_tokenizer = byte_level(true)};
  return std::nullopt;
}

Family family(const GgufFile& gguf) {
  const std::string where = gguf.file()->path().string();
  if (!gguf.has("tokenizer.ggml.pre") && gguf_architecture(gguf) != GgufArchitecture::kPhi2) {
    fail(
        "{}: 'tokenizer.ggml.pre' is missing, so its way to split text is unknown; convert the model anew "
        "with a "
        "current llama.cpp",
        where);
  }
  const std::string pre = gguf.text_or("tokenizer.ggml.pre", "gpt-2");
  if (auto known = family_named(pre)) return *std::move(known);
  fail("{}: pre-tokenizer {} is not supported; llama-bpe, qwen2, smollm, gpt-2, phi-2 and default are", where,
       quote_name(pre));
}

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

// Spaces are U+2581, and one more stands before every text between special tokens.
Family sentencepiece_family(bool prefix) {
  const Json spaces = replace(" ", kSpacePiece);
  Json decoders = Json::array({replace(kSpacePiece, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  Family rules{.pre_tokenizer = nullptr,
               .normalizer = spaces,
               .decoder = {{"type", "Sequence"}, {"decoders", decoders}},
               .start_token = true};
  if (prefix) {
    rules.normalizer = {
        {"type", "Sequence"},
        {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", kSpacePiece}}, spaces})}};
  }
  return rules;
}

Json merge_pairs(const GgufFile& gguf) {
  Json pairs = Json::array();
  for (std::string_view merge : gguf.texts("tokenizer.ggml.merges")) {
    const size_t space = merge.find(' ', 1);  // byte-level tokens hold no space, but be sure of the first
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      fail("{}: {} is not a merge of two tokens", gguf.file()->path().string(), quote_name(merge));
    }
    pairs.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return pairs;
}

struct TokenList {
  std::vector<std::string_view> texts;
  std::vector<int64_t> types;  // empty, or as many
};

TokenList read_tokens(const GgufFile& gguf) {
  const std::string where = gguf.file()->path().string();
  TokenList tokens{gguf.texts("tokenizer.ggml.tokens"), {}};
  if (tokens.texts.empty() ||
      tokens.texts.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    fail("{}: {} tokens, expected 1 to 2^31 - 1", where, tokens.texts.size());
  }
  if (gguf.has("tokenizer.ggml.token_type")) {
    tokens.types = gguf.integers("tokenizer.ggml.token_type");
    if (tokens.types.size() != tokens.texts.size()) {
      fail("{}: {} tokens, but {} token types", where, tokens.texts.size(), tokens.types.size());
    }
  }
  return tokens;
}

// The pieces that merges make or are made of: not bytes, control or unused tokens.
std::vector<ScoredPiece> scored_pieces(const GgufFile& gguf, const TokenList& tokens) {
  const std::vector<float> scores = gguf.numbers("tokenizer.ggml.scores");
  if (scores.size() != tokens.texts.size()) {
    fail("{}: {} tokens, but {} scores", gguf.file()->path().string(), tokens.texts.size(), scores.size());
  }
  std::vector<ScoredPiece> pieces;
  for (size_t id = 0; id < scores.size(); ++id) {
    const int64_t type =
        tokens.types.empty() ? static_cast<int64_t>(GgufTokenType::kNormal) : tokens.types[id];
    if (type == static_cast<int64_t>(GgufTokenType::kNormal) || type == kUserDefined)
      pieces.push_back({tokens.texts[id], scores[id]});
  }
  return pieces;
}

// A special token that the post-processor puts around a text, with its description.
Json special_token(std::string_view token) { return {{"SpecialToken", {{"id", token}, {"type_id", 0}}}}; }

Json template_processing(const GgufFile& gguf, const std::vector<std::string_view>& tokens, bool start,
                         bool end) {
  Json single = Json::array({{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}});
  Json pair = Json::array(
      {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}});
  Json special = Json::object();
  const auto look_up = [&](const char* key) {
    const int64_t id = gguf.integer(key);
    if (id < 0 || static_cast<uint64_t>(id) >= tokens.size()) {
      fail("{}: metadata '{}' is {}, but there are {} tokens", gguf.file()->path().string(), key, id,
           tokens.size());
    }
    const std::string_view token = tokens[static_cast<size_t>(id)];
    special[std::string(token)] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    return token;
  };
  if (start) single.insert(single.begin(), special_token(look_up("tokenizer.ggml.bos_token_id")));
  if (end) single.push_back(special_token(look_up("tokenizer.ggml.eos_token_id")));
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

// What a pre-tokenizer does, without what makes no difference to the pieces.
std::vector<Json> steps(const Json& pre_tokenizer) {
  if (!pre_tokenizer.is_object()) return {};
  const std::string type = pre_tokenizer.value("type", "");
  std::vector<Json> out;
  if (type == "Sequence") {
    for (const Json& part : pre_tokenizer.value("pretokenizers", Json::array())) {
      for (Json& step : steps(part)) out.push_back(std::move(step));
    }
  } else if (type == "ByteLevel") {
    out.push_back(
        {type, pre_tokenizer.value("add_prefix_space", true), pre_tokenizer.value("use_regex", true)});
  } else if (type == "Split") {
    // "Removed" inverted and "Isolated" cut these patterns, which match everything, at the same places.
    out.push_back({type, pre_tokenizer.value("pattern", Json())});
  } else if (type == "Digits") {
    out.push_back({type, pre_tokenizer.value("individual_digits", false)});
  } else {
    out.push_back(pre_tokenizer);
  }
  return out;
}

}  // namespace

std::string gguf_pre_tokenizer(const Json& tokenizer) {
  if (!tokenizer.is_object() || !tokenizer.contains("pre_tokenizer")) return "";
  const std::vector<Json> wanted = steps(tokenizer.at("pre_tokenizer"));
  for (const char* name : {"llama-bpe", "qwen2", "smollm", "gpt-2"}) {
    if (steps(family_named(name)->pre_tokenizer) == wanted) return name;
  }
  return "";
}

std::optional<bool> gguf_space_prefix(const Json& tokenizer) {
  for (const bool prefix : {true, false}) {
    const Family rules = sentencepiece_family(prefix);
    if (tokenizer.value("normalizer", Json()) == rules.normalizer &&
        tokenizer.value("pre_tokenizer", Json()).is_null())
      return prefix;
  }
  return std::nullopt;
}

Json gguf_tokenizer(const GgufFile& gguf) {
  const std::string where = gguf.file()->path().string();
  const std::string kind = gguf.text("tokenizer.ggml.model");
  const bool text = kind == "llama";
  if (!text && kind != "gpt2") {
    fail("{}: tokenizer {} is not supported; byte-level BPE ('gpt2') and SentencePiece's BPE ('llama') are",
         where, quote_name(kind));
  }
  Family rules =
      text ? sentencepiece_family(gguf.flag_or("tokenizer.ggml.add_space_prefix", true)) : family(gguf);
  const TokenList tokens = read_tokens(gguf);
  Json vocab = Json::object(), added = Json::array(), unknown = nullptr;
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    if (!vocab.emplace(tokens.texts[id], id).second) {
      fail("{}: token {} stands twice in the vocabulary", where, quote_name(tokens.texts[id]));
    }
    const int64_t type = tokens.types.empty() ? 0 : tokens.types[id];
    const bool is_unknown = text && type == static_cast<int64_t>(GgufTokenType::kUnknown);
    if (is_unknown) unknown = tokens.texts[id];
    if (type != kControl && type != kUserDefined && !is_unknown) continue;
    added.push_back({{"id", id},
                     {"content", tokens.texts[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != kUserDefined}});
  }
  const bool start = gguf.flag_or("tokenizer.ggml.add_bos_token", rules.start_token);
  const bool end = gguf.flag_or("tokenizer.ggml.add_eos_token", false);
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", rules.normalizer},
      {"pre_tokenizer", rules.pre_tokenizer},
      {"post_processor", start || end ? template_processing(gguf, tokens.texts, start, end) : Json()},
      {"decoder", rules.decoder},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", unknown},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", text},
        {"byte_fallback", text},
        {"ignore_merges", rules.ignore_merges},
        {"vocab", std::move(vocab)},
        {"merges", text ? Json(merges_of_scores(scored_pieces(gguf, tokens), where)) : merge_pairs(gguf)}}}};
}

}  // namespace nibble
