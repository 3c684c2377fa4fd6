#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "test_data.h"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

Ids encode(const Bpe& bpe, std::string_view piece) {
  Bpe::Scratch scratch;
  Ids ids;
  bpe.encode(piece, scratch, ids);
  return ids;
}

// The definition: again and again merge the adjacent pair of lowest rank, the leftmost first.
Ids encode_by_definition(const Json& model, std::string_view piece) {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < model["merges"].size(); ++i) ranks[model["merges"][i]] = i;
  std::vector<std::string> parts;
  for (const char c : piece) parts.emplace_back(1, c);
  for (;;) {
    size_t best = ranks.size(), at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        at = i;
      }
    }
    if (best == ranks.size()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  Ids ids;
  for (const auto& part : parts) ids.push_back(model["vocab"][part]);
  return ids;
}

TEST(Bpe, AsDefinedOnRandomLetters) {
  const Json json = read_json_file(testing::mini_dir() / "models" / "phi-mini" / "tokenizer.json");
  const Bpe bpe = Bpe::from_json(json["model"], "phi-mini");
  Random random(7);
  for (int round = 0; round < 100; ++round) {
    std::string piece;
    const std::string_view letters = round % 2 ? "etaoinsrh" : "abcdefghijklmnopqrstuvwxyz.,'0123456789";
    for (uint64_t n = random.below(60); n > 0; --n) piece += letters[random.below(letters.size())];
    EXPECT_EQ(encode(bpe, piece), encode_by_definition(json["model"], piece)) << piece;
  }
}

TEST(Bpe, LongPieces) {
  Json model = {{"vocab", {{"a", 0}, {"b", 9}}}, {"merges", Json::array()}};
  for (int i = 1; i <= 3; ++i) {  // aa, aaaa, aaaaaaaa
    const std::string half(size_t{1} << (i - 1), 'a');
    model["vocab"][half + half] = i;
    model["merges"].push_back(half + " " + half);
  }
  const Bpe bpe = Bpe::from_json(model, "t");
  Ids expected(1'000'000 / 8, 3);
  expected.insert(expected.end(), {2, 1, 0, 9});  // 1,000,007 = 8 · 125,000 + 4 + 2 + 1
  EXPECT_EQ(encode(bpe, std::string(1'000'007, 'a') + "b"), expected);
}

TEST(Bpe, LaterMergeOfAPairWins) {
  const Json model = {{"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}}},
                      {"merges", {"a b", "b c", "a b"}}};
  EXPECT_EQ(encode(Bpe::from_json(model, "t"), "abc"), (Ids{0, 4}));
}

}  // namespace
}  // namespace nibble
