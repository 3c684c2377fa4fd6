#include "text/tokenizer.h"

#include <functional>
#include <utility>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"

namespace nibble {
namespace {

const Json& part(const Json& json, const char* key) {
  static const Json kNull;
  const auto found = json.find(key);
  return found == json.end() ? kNull : *found;
}

// Bytes of all added tokens together; real tokenizers have a few thousand.
constexpr size_t kMaxAddedBytes = size_t{1} << 20;

// An Error's message holds names and patterns from the file: kept to one line of bounded length.
[[noreturn]] void rethrow_as_line(const Error& error) {
  constexpr size_t kMaxBytes = 500;
  std::string line = error.what();
  if (line.size() > kMaxBytes) line = line.substr(0, valid_prefix(line.substr(0, kMaxBytes))) + "…";
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  throw Error(line);
}

}  // namespace

struct Tokenizer::Impl {
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  PostProcessor post_processor;
  AddedTokenMatcher raw_tokens, normalized_tokens;
  std::vector<bool> special;  // by id

  const std::string& bytes(int32_t id) const {
    const int32_t size = bpe.vocabulary().size();
    if (id < 0 || id >= size) fail("token id {} is outside the vocabulary of {}", id, size);
    return bpe.vocabulary().bytes(id);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_json(const Json& json, std::string_view where) try {
  if (!json.is_object()) fail("{}: not a JSON object ({})", where, json.type_name());
  if (!json.contains("model")) fail("{}: 'model' is missing", where);
  Bpe bpe = Bpe::from_json(json["model"], where);
  Normalizer normalizer = Normalizer::from_json(part(json, "normalizer"), where);
  PreTokenizer pre_tokenizer = PreTokenizer::from_json(part(json, "pre_tokenizer"), bpe.spelling(), where);
  Decoder decoder = Decoder::from_json(part(json, "decoder"), bpe.spelling(), where);

  AddedTokenMatcher raw_tokens, normalized_tokens;
  const std::vector<AddedToken> added = added_tokens_from_json(part(json, "added_tokens"), where);
  size_t added_bytes = 0;
  for (const AddedToken& token : added) {
    if (token.content.empty()) fail("{}: the added token {} is empty", where, token.id);
    bpe.vocabulary().add_plain(token.content, token.id, where);
    const std::string pattern = token.normalized ? normalizer.normalize(token.content) : token.content;
    added_bytes += pattern.size();
    if (added_bytes > kMaxAddedBytes) fail("{}: added tokens of more than {} bytes", where, kMaxAddedBytes);
    (token.normalized ? normalized_tokens : raw_tokens).add(pattern, token);
  }
  if (bpe.spelling() == Spelling::kText) {
    bpe.vocabulary().change_bytes([&](const std::string& spelled) { return decoder.bytes(spelled); });
  }
  const int32_t size = bpe.vocabulary().size();
  std::vector<bool> special(static_cast<size_t>(size), false);
  for (const AddedToken& token : added) {
    if (token.special) special[static_cast<size_t>(token.id)] = true;
  }
  PostProcessor post_processor = PostProcessor::from_json(part(json, "post_processor"), size, where);
  return Tokenizer(std::unique_ptr<Impl>(new Impl{
      std::move(bpe), std::move(normalizer), std::move(pre_tokenizer), std::move(decoder),
      std::move(post_processor), std::move(raw_tokens), std::move(normalized_tokens), std::move(special)}));
} catch (const Error& error) {
  rethrow_as_line(error);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  const Impl& impl = *impl_;
  std::vector<int32_t> ids;
  if (add_special) ids = impl.post_processor.before();
  const auto on_token = [&](int32_t id) { ids.push_back(id); };

  MatchState match_state;
  Bpe::Scratch scratch;
  const std::function<void(std::string_view)> on_piece = [&](std::string_view piece) {
    impl.bpe.encode(piece, scratch, ids);
  };
  const auto split = [&](std::string_view whole, bool at_start) {
    const auto on_plain = [&](std::string_view plain) {
      impl.pre_tokenizer.split(plain, at_start && plain.data() == whole.data(), match_state, on_piece);
    };
    impl.normalized_tokens.split(whole, on_plain, on_token);
  };
  const auto on_raw = [&](std::string_view raw) {
    const bool at_start = raw.data() == text.data();
    if (impl.normalizer.changes_nothing()) return split(raw, at_start);
    split(impl.normalizer.normalize(raw), at_start);
  };
  impl.raw_tokens.split(text, on_raw, on_token);

  if (add_special) {
    const auto& after = impl.post_processor.after();
    ids.insert(ids.end(), after.begin(), after.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text = decode_within(ids, skip_special);
  impl_->decoder.strip(text);
  return text;
}

std::string Tokenizer::decode_within(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  for (const int32_t id : ids) {
    const std::string& bytes = impl_->bytes(id);
    if (!(skip_special && is_special(id))) text += bytes;
  }
  return text;
}

std::string Tokenizer::token_bytes(int32_t id) const { return impl_->bytes(id); }

int32_t Tokenizer::vocab_size() const { return impl_->bpe.vocabulary().size(); }

int32_t Tokenizer::start_token() const {
  const auto& before = impl_->post_processor.before();
  return before.empty() ? -1 : before.front();
}

int32_t Tokenizer::token_id(std::string_view token) const {
  return impl_->bpe.vocabulary().find_spelling(token);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->special.size() &&
         impl_->special[static_cast<size_t>(id)];
}

}  // namespace nibble
