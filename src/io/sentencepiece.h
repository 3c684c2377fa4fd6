// Two ways to say which pieces a BPE joins first: a score for each piece (SentencePiece, llama.cpp's "llama"
// tokenizer), and a list of merges (tokenizer.json).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct ScoredPiece {
  std::string_view text;
  float score;
};

// "left right" for every pair of pieces that makes a third, that of the highest score first; of one piece the
// longer left side first, as the converter of transformers has it. SentencePiece joins the leftmost of equal
// pieces, so the order among one piece's merges can matter where its two ways overlap (in runs of one
// character). `where` names the file in errors: pieces longer than 128 bytes, far more merges than pieces.
std::vector<std::string> merges_of_scores(const std::vector<ScoredPiece>& pieces, std::string_view where);

// Scores that make SentencePiece join pieces in the order of `merges` ("left right"); false when none do,
// since it joins any two pieces that make a third, and a piece has one score.
bool scores_of_merges(std::vector<ScoredPiece>& pieces, const std::vector<std::string>& merges,
                      std::string_view where);

}  // namespace nibble
