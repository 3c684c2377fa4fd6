// GGUF files with a tokenizer of SentencePiece's kind, against tokenizer.json as transformers' converter
// would write it (scripts/golden_sentencepiece.py).
#include "io/sentencepiece.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "io/gguf_metadata.h"
#include "io/gguf_writer.h"
#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GgufSentencePiece : public ::testing::Test {
 protected:
  GgufSentencePiece() : tokens_(golden_["base"]["model"]["vocab"].size()) {
    for (const auto& [token, id] : golden_["base"]["model"]["vocab"].items())
      tokens_[id.get<size_t>()] = token;
    types_.assign(tokens_.size(), 1);
    std::fill_n(types_.begin(), 259, 6);
    types_[0] = 2;
    types_[1] = types_[2] = 3;
  }
  // tokenizer.json of a file with these tokens.
  Json read(bool with_prefix = true) {
    GgufWriter writer;
    writer.add_text("general.architecture", "llama");
    writer.add_text("tokenizer.ggml.model", "llama");
    writer.add_texts("tokenizer.ggml.tokens", tokens_);
    writer.add_integers("tokenizer.ggml.token_type", types_);
    if (!scores_.empty()) writer.add_numbers("tokenizer.ggml.scores", scores_);
    writer.add_count("tokenizer.ggml.bos_token_id", 1);
    if (!with_prefix) writer.add_flag("tokenizer.ggml.add_space_prefix", false);
    writer.write(dir_ / "x.gguf");
    return gguf_tokenizer(GgufFile::open(dir_ / "x.gguf"));
  }
  std::string error() {
    return error_of([&] { read(); });
  }

  TemporaryDirectory dir_;
  const Json golden_ = read_json_file(testing::source_dir() / "tests" / "golden" / "sentencepiece.json");
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<float> scores_ = golden_["scores"].get<std::vector<float>>();
};

TEST_F(GgufSentencePiece, BecomesTheTokenizerItWasMadeFrom) {
  Json expected = golden_["base"], got = read();
  for (Json* json : {&expected, &got}) (*json)["post_processor"].erase("pair");
  EXPECT_EQ(got, expected) << Json::diff(expected, got).dump(1).substr(0, 2000);
  EXPECT_EQ(gguf_space_prefix(got), std::optional(true));
  const Json without = read(false);
  EXPECT_EQ(without["normalizer"]["type"], "Replace");
  EXPECT_EQ(without["decoder"]["decoders"].size(), 3u);
  EXPECT_EQ(gguf_space_prefix(without), std::optional(false));
  expected["normalizer"] = nullptr;
  EXPECT_EQ(gguf_space_prefix(expected), std::nullopt);
}

TEST_F(GgufSentencePiece, ScoresOfMergesAreTheirOrder) {
  const auto merges = golden_["base"]["model"]["merges"].get<std::vector<std::string>>();
  std::vector<ScoredPiece> pieces;
  for (size_t id = 259; id < tokens_.size(); ++id) pieces.push_back({tokens_[id], 0});
  ASSERT_TRUE(scores_of_merges(pieces, merges, "x"));
  std::vector<std::string> sorted = merges_of_scores(pieces, "x"), expected = merges;
  std::ranges::sort(sorted);
  std::ranges::sort(expected);
  EXPECT_EQ(sorted, expected);
  auto fewer = merges;
  fewer.pop_back();
  EXPECT_FALSE(scores_of_merges(pieces, fewer, "x"));
}

TEST(SentencePieceMerges, BestFirstAndLongerLeftFirst) {
  std::vector<ScoredPiece> pieces = {{"a", -9},   {"b", -9}, {"ab", -2}, {"ba", -3},
                                     {"aba", -1}, {"é", -9}, {"aé", -4}};
  const std::vector<std::string> merges = merges_of_scores(pieces, "x");
  EXPECT_THAT(merges, ElementsAre("ab a", "a ba", "a b", "b a", "a é"));
  EXPECT_TRUE(scores_of_merges(pieces, merges, "x"));
  EXPECT_TRUE(scores_of_merges(pieces, {"a ba", "ab a", "a b", "b a", "a é"}, "x"));   // of one piece
  EXPECT_FALSE(scores_of_merges(pieces, {"ab a", "a b", "a ba", "b a", "a é"}, "x"));  // two scores of "aba"
}

TEST_F(GgufSentencePiece, HostileFilesEndInOneLine) {
  const std::vector<float> scores = scores_;
  scores_.clear();
  EXPECT_THAT(error(), HasSubstr("'tokenizer.ggml.scores' is missing"));
  scores_ = scores;
  scores_.pop_back();
  EXPECT_THAT(error(), HasSubstr("420 tokens, but 419 scores"));
  scores_.push_back(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(error(), HasSubstr("finite"));
  scores_ = scores;
  tokens_[300] = std::string(129, 'x');
  EXPECT_THAT(error(), HasSubstr("a piece of 129 bytes"));
  for (size_t n = 1; n <= 128; ++n) tokens_[258 + n] = std::string(n, '~');
  EXPECT_THAT(error(), HasSubstr("more than 8 ways a piece"));
}

}  // namespace
}  // namespace nibble
