#include "io/sentencepiece.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace nibble {
namespace {

// SentencePiece's own limit is 16 characters unless it is told otherwise; Llama 2 has two merges a piece.
constexpr size_t kMaxPieceBytes = 128;
constexpr size_t kMaxMergesPerPiece = 8;

struct PieceMerge {
  const ScoredPiece* piece;
  size_t left_bytes, left_characters, right_characters;
};

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0u) == 0x80u; }

std::string text_of(const PieceMerge& merge) {
  const std::string_view text = merge.piece->text;
  return std::string(text.substr(0, merge.left_bytes)) + " " + std::string(text.substr(merge.left_bytes));
}

// "left right" → what they make
std::string piece_of(const std::string& merge) {
  std::string piece = merge;
  if (const size_t space = merge.find(' '); space != std::string::npos) piece.erase(space, 1);
  return piece;
}

// The merges of each piece that stand together, in an order of their own.
std::vector<std::string> sorted_within_pieces(std::vector<std::string> merges) {
  for (auto begin = merges.begin(); begin != merges.end();) {
    const std::string piece = piece_of(*begin);
    const auto end =
        std::find_if(begin, merges.end(), [&](const std::string& merge) { return piece_of(merge) != piece; });
    std::sort(begin, end);
    begin = end;
  }
  return merges;
}

}  // namespace

std::vector<std::string> merges_of_scores(const std::vector<ScoredPiece>& pieces, std::string_view where) {
  std::unordered_set<std::string_view> known;
  for (const auto& [text, score] : pieces) {
    if (text.size() > kMaxPieceBytes) {
      fail("{}: a piece of {} bytes in the vocabulary; at most {} are supported", where, text.size(),
           kMaxPieceBytes);
    }
    if (text.find(' ') == std::string_view::npos) known.insert(text);  // a space is U+2581 by now
  }
  std::vector<PieceMerge> merges;
  for (const ScoredPiece& piece : pieces) {
    const std::string_view text = piece.text;
    const size_t characters =
        text.size() - static_cast<size_t>(std::ranges::count_if(text, continues_character));
    size_t before = 0;
    for (size_t at = 1; at < text.size(); ++at) {
      if (continues_character(text[at])) continue;
      ++before;
      if (known.contains(text.substr(0, at)) && known.contains(text.substr(at)))
        merges.push_back({&piece, at, before, characters - before});
    }
    if (merges.size() > kMaxMergesPerPiece * pieces.size()) {
      fail("{}: more than {} ways a piece to make the {} pieces of its vocabulary", where, kMaxMergesPerPiece,
           pieces.size());
    }
  }
  std::ranges::stable_sort(merges, [](const PieceMerge& a, const PieceMerge& b) {
    return std::tuple(a.piece->score, a.left_characters, a.right_characters) >
           std::tuple(b.piece->score, b.left_characters, b.right_characters);
  });
  std::vector<std::string> texts;
  texts.reserve(merges.size());
  for (const PieceMerge& merge : merges) texts.push_back(text_of(merge));
  return texts;
}

bool scores_of_merges(std::vector<ScoredPiece>& pieces, const std::vector<std::string>& merges,
                      std::string_view where) {
  std::unordered_map<std::string, float> scores;
  for (size_t rank = 0; rank < merges.size(); ++rank)
    scores.emplace(piece_of(merges[rank]), -static_cast<float>(rank));
  for (ScoredPiece& piece : pieces) {
    const auto found = scores.find(std::string(piece.text));
    piece.score = found == scores.end() ? -static_cast<float>(merges.size()) : found->second;
  }
  return sorted_within_pieces(merges_of_scores(pieces, where)) == sorted_within_pieces(merges);
}

}  // namespace nibble
