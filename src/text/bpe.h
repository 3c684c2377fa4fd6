// Byte-pair encoding of one piece of text (Sennrich 2016), over bytes as in GPT-2 or over characters as
// in SentencePiece.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/vocabulary.h"

namespace nibble {

// (left, right) → rank and merged id. Open addressing: a lookup is the inner loop of encoding.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };

  explicit MergeTable(size_t count);
  void insert(int32_t left, int32_t right, Merge merge);  // a later merge of the same pair replaces
  const Merge* find(int32_t left, int32_t right) const;   // null when the pair does not merge

 private:
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  size_t slot_of(uint64_t key) const;

  std::vector<Slot> slots_;
  size_t mask_;
};

class Bpe {
 public:
  // The "model" of tokenizer.json, of Spelling::kText where it says byte_fallback. Throws Error for what is
  // neither.
  static Bpe from_json(const Json& model, std::string_view where);

  // Buffers of one encoding thread, reused from piece to piece.
  struct Scratch {
    struct Symbol {
      int32_t id, previous, next;
    };
    struct Candidate {
      uint64_t order;  // rank, then position: the lowest rank merges first, leftmost first
      int32_t left, right;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;
  };

  // Appends the piece's ids. O(n log n). Bytes that the vocabulary lacks become unk_token or, without
  // one, are left out, as Hugging Face does (SmolLM2 lacks a few, most of which UTF-8 never holds). Of
  // Spelling::kText, characters that it lacks become the tokens of their bytes where it has all of those.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  Vocabulary& vocabulary() { return vocabulary_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  Spelling spelling() const { return spelling_; }

 private:
  Bpe(Spelling spelling, Vocabulary vocabulary, MergeTable merges);
  void fill_bytes(std::string_view piece, std::vector<Scratch::Symbol>& symbols) const;
  void fill_characters(std::string_view piece, std::vector<Scratch::Symbol>& symbols) const;

  Spelling spelling_;
  Vocabulary vocabulary_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;      // of the byte as text; -1: not in the vocabulary
  std::array<int32_t, 256> fallback_ids_;  // of <0x00> …; -1 likewise
  bool ignore_merges_ = false;             // a piece that is a token is that token, whatever the merges
  int32_t unknown_id_ = -1;                // stands for a byte without an id; -1: nothing does
  bool fuse_unknown_ = false;              // one for a run of such bytes
};

}  // namespace nibble
