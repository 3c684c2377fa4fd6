#include "convert/gguf_vocabulary.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "io/gguf_metadata.h"
#include "io/sentencepiece.h"
#include "text/byte_level.h"

namespace nibble {
namespace {

struct GgufVocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
};

// text: of SentencePiece's kind, whose types tell bytes and the unknown token apart, too.
GgufVocabulary vocabulary_of(const Json& tokenizer, const Json& model, bool text, size_t size,
                             const std::string& where) {
  GgufVocabulary v{std::vector<std::string>(size),
                   std::vector<int32_t>(size, static_cast<int32_t>(GgufTokenType::kUnused))};
  for (size_t i = 0; i < size; ++i) v.tokens[i] = fmt::format("[PAD{}]", i);
  const auto place = [&](const std::string& token, int64_t id, GgufTokenType type) {
    if (id < 0 || static_cast<size_t>(id) >= size)
      fail("{}: token {} of the tokenizer is outside the vocabulary of {}", where, id, size);
    v.tokens[static_cast<size_t>(id)] = token;
    v.types[static_cast<size_t>(id)] = static_cast<int32_t>(type);
  };
  const Json vocab = json_get<Json>(model, "vocab", where);
  for (const auto& [token, id] : vocab.items()) {
    const bool byte = text && byte_of_spelling(token) >= 0;
    place(token, id.get<int64_t>(), byte ? GgufTokenType::kByte : GgufTokenType::kNormal);
  }
  const auto unknown = json_get_or<std::string>(model, "unk_token", "", where);
  for (const Json& added : json_get_or<Json>(tokenizer, "added_tokens", Json::array(), where)) {
    const auto content = json_get<std::string>(added, "content", where);
    const bool special = json_get_or<bool>(added, "special", false, where);
    place(content, json_get<int64_t>(added, "id", where),
          text && content == unknown ? GgufTokenType::kUnknown
          : special                  ? GgufTokenType::kControl
                                     : GgufTokenType::kUserDefined);
  }
  return v;
}

std::vector<std::string> merges_of(const Json& model, const std::string& where) {
  std::vector<std::string> merges;
  for (const Json& merge : json_get<Json>(model, "merges", where))
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
  return merges;
}

// Of every token; llama.cpp joins by scores alone.
std::vector<float> scores_of(const GgufVocabulary& vocabulary, const std::vector<std::string>& merges,
                             const std::string& where) {
  std::vector<ScoredPiece> pieces;
  std::vector<size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const auto type = static_cast<GgufTokenType>(vocabulary.types[id]);
    if (type != GgufTokenType::kNormal && type != GgufTokenType::kUserDefined) continue;
    pieces.push_back({vocabulary.tokens[id], 0});
    ids.push_back(id);
  }
  if (!scores_of_merges(pieces, merges, where)) {
    fail(
        "{}: its tokenizer's merges are in an order that no scores of its tokens give, which is what "
        "llama.cpp has",
        where);
  }
  std::vector<float> scores(vocabulary.tokens.size(), 0.0f);
  for (size_t i = 0; i < ids.size(); ++i) scores[ids[i]] = pieces[i].score;
  return scores;
}

}  // namespace

void add_gguf_vocabulary(GgufWriter& writer, const Json& tokenizer, size_t vocab_size,
                         const std::string& where) {
  const Json model = json_get<Json>(tokenizer, "model", where);
  const bool text = json_get_or<bool>(model, "byte_fallback", false, where);
  const std::string pre = text ? "default" : gguf_pre_tokenizer(tokenizer);
  const std::optional<bool> prefix = text ? gguf_space_prefix(tokenizer) : false;
  if (pre.empty() || !prefix)
    fail("{}: llama.cpp has no name known here for the way its tokenizer splits text", where);
  const GgufVocabulary vocabulary = vocabulary_of(tokenizer, model, text, vocab_size, where);
  const std::vector<std::string> merges = merges_of(model, where);
  writer.add_text("tokenizer.ggml.model", text ? "llama" : "gpt2");
  writer.add_text("tokenizer.ggml.pre", pre);
  writer.add_texts("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.add_integers("tokenizer.ggml.token_type", vocabulary.types);
  if (text) {
    writer.add_numbers("tokenizer.ggml.scores", scores_of(vocabulary, merges, where));
    writer.add_flag("tokenizer.ggml.add_space_prefix", *prefix);
    const auto unknown = std::ranges::find(vocabulary.types, static_cast<int32_t>(GgufTokenType::kUnknown));
    if (unknown != vocabulary.types.end())
      writer.add_count("tokenizer.ggml.unknown_token_id", unknown - vocabulary.types.begin());
  } else {
    writer.add_texts("tokenizer.ggml.merges", merges);
  }
}

}  // namespace nibble
