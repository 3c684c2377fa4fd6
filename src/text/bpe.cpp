#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <utility>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace nibble {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A merge written as "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> merge_parts(const Json& merge, size_t rank,
                                                          std::string_view where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  fail("{}: merge {} is neither \"a b\" nor [\"a\", \"b\"]", where, rank);
}

MergeTable read_merges(const Json& merges, const Vocabulary& vocabulary, std::string_view where) {
  if (!merges.is_array()) fail("{}: 'merges' is not an array ({})", where, merges.type_name());
  MergeTable table(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merge_parts(merges[rank], rank, where);
    joined.assign(left).append(right);
    int32_t ids[3];
    const std::string_view tokens[3] = {left, right, joined};
    for (int i = 0; i < 3; ++i) {
      ids[i] = vocabulary.find_spelling(tokens[i]);
      if (ids[i] < 0) fail("{}: merge {} names '{}', which is not in the vocabulary", where, rank, tokens[i]);
    }
    table.insert(ids[0], ids[1], {static_cast<uint32_t>(rank), ids[2]});
  }
  return table;
}

void refuse_affix(const Json& model, const char* key, std::string_view where) {
  const auto text = json_get_or<std::string>(model, key, "", where);
  if (!text.empty()) fail("{}: '{}' is not supported ('{}')", where, key, text);
}

}  // namespace

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(2 * count + 1)), mask_(slots_.size() - 1) {}

size_t MergeTable::slot_of(uint64_t key) const {
  uint64_t hash = key * 0x9e3779b97f4a7c15ull;
  hash ^= hash >> 32;
  size_t slot = hash & mask_;
  while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & mask_;
  return slot;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = pair_key(left, right);
  slots_[slot_of(key)] = {key, merge};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.key == kFree ? nullptr : &slot.merge;
}

Bpe::Bpe(Spelling spelling, Vocabulary vocabulary, MergeTable merges)
    : spelling_(spelling), vocabulary_(std::move(vocabulary)), merges_(std::move(merges)) {
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    byte_ids_[static_cast<size_t>(b)] = vocabulary_.find_bytes({&byte, 1});
    fallback_ids_[static_cast<size_t>(b)] =
        spelling == Spelling::kText ? vocabulary_.find_bytes(spelling_of_byte(b)) : -1;
  }
}

Bpe Bpe::from_json(const Json& model, std::string_view where) {
  if (!model.is_object()) fail("{}: 'model' is not an object ({})", where, model.type_name());
  const auto type = json_get_or<std::string>(model, "type", "BPE", where);  // old files leave it out
  if (type != "BPE")
    fail("{}: tokenizer model '{}' is not supported (BPE, of bytes or with byte_fallback, is)", where, type);
  for (const char* key : {"vocab", "merges"}) {
    if (!model.contains(key)) fail("{}: model: '{}' is missing", where, key);
  }
  if (json_get_or<double>(model, "dropout", 0.0, where) != 0.0) fail("{}: 'dropout' is not supported", where);
  const Spelling spelling =
      json_get_or<bool>(model, "byte_fallback", false, where) ? Spelling::kText : Spelling::kByteLevel;
  refuse_affix(model, "continuing_subword_prefix", where);
  refuse_affix(model, "end_of_word_suffix", where);

  Vocabulary vocabulary = Vocabulary::from_json(model["vocab"], spelling, where);
  MergeTable merges = read_merges(model["merges"], vocabulary, where);
  Bpe bpe(spelling, std::move(vocabulary), std::move(merges));
  bpe.ignore_merges_ = json_get_or<bool>(model, "ignore_merges", false, where);
  bpe.fuse_unknown_ = json_get_or<bool>(model, "fuse_unk", false, where);
  const auto unknown = json_get_or<std::string>(model, "unk_token", "", where);
  bpe.unknown_id_ = unknown.empty() ? -1 : bpe.vocabulary_.find_spelling(unknown);
  if (!unknown.empty() && bpe.unknown_id_ < 0) {
    fail("{}: 'unk_token' '{}' is not in the vocabulary", where, unknown);
  }
  return bpe;
}

void Bpe::fill_bytes(std::string_view piece, std::vector<Scratch::Symbol>& symbols) const {
  bool after_unknown = false;
  for (const char c : piece) {
    int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    const bool unknown = id < 0;
    if (unknown) id = after_unknown && fuse_unknown_ ? -1 : unknown_id_;
    after_unknown = unknown;
    const auto at = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, at - 1, at + 1});
  }
}

void Bpe::fill_characters(std::string_view piece, std::vector<Scratch::Symbol>& symbols) const {
  const auto add = [&](int32_t id) {
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  };
  // As in Hugging Face, an unknown token waits for the next known character, and bytes overtake it.
  bool waiting = false;
  while (!piece.empty()) {
    const CodePoint c = first_code_point(piece);
    const std::string_view spelled = piece.substr(0, c.size);
    piece.remove_prefix(c.size);
    int32_t id = -1;
    if (c.value >= 0) id = c.value < 0x80 ? byte_ids_[c.value] : vocabulary_.find_bytes(spelled);
    if (id >= 0) {
      if (waiting) add(unknown_id_);
      waiting = false;
      add(id);
      continue;
    }
    const auto fallback = [&](char byte) { return fallback_ids_[static_cast<unsigned char>(byte)]; };
    if (std::ranges::all_of(spelled, [&](char byte) { return fallback(byte) >= 0; })) {
      for (const char byte : spelled) add(fallback(byte));
    } else if (unknown_id_ >= 0) {
      if (waiting && !fuse_unknown_) add(unknown_id_);
      waiting = true;
    }
  }
  if (waiting) add(unknown_id_);
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const int32_t id = vocabulary_.find_bytes(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  if (piece.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    fail("a piece of {} bytes without a break is too long to tokenize", piece.size());
  }
  auto& symbols = scratch.symbols;
  symbols.clear();
  spelling_ == Spelling::kText ? fill_characters(piece, symbols) : fill_bytes(piece, symbols);
  if (symbols.empty()) return;
  symbols.back().next = -1;

  auto& heap = scratch.candidates;
  heap.clear();
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.order > b.order;
  };
  const auto consider = [&](int32_t at) {
    const int32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
    const MergeTable::Merge* merge = merges_.find(left, right);
    if (!merge) return false;
    heap.push_back({uint64_t{merge->rank} << 32 | static_cast<uint32_t>(at), left, right});
    return true;
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(best.order & 0xffffffffu);
    auto& symbol = symbols[at];
    // Either side may have been merged since; a merged right side has id -1.
    if (symbol.id != best.left || symbol.next < 0 || symbols[symbol.next].id != best.right) continue;
    const int32_t gone = symbol.next;
    symbol.id = merges_.find(best.left, best.right)->id;
    symbol.next = symbols[gone].next;
    symbols[gone].id = -1;
    if (symbol.next >= 0) {
      symbols[symbol.next].previous = at;
      if (consider(at)) std::push_heap(heap.begin(), heap.end(), later);
    }
    if (symbol.previous >= 0 && consider(symbol.previous)) std::push_heap(heap.begin(), heap.end(), later);
  }
  for (int32_t at = 0; at >= 0; at = symbols[at].next) ids.push_back(symbols[at].id);
}

}  // namespace nibble
