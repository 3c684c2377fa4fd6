#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "test_data.h"
#include "text/unicode.h"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

Json mini_json(const std::string& name) {
  return read_json_file(testing::mini_dir() / "models" / name / "tokenizer.json");
}
Tokenizer mini(const std::string& name) { return Tokenizer::from_json(mini_json(name), name); }

std::string random_characters(Random& random, size_t n) {
  std::string text;
  while (n-- > 0) {
    const uint64_t kind = random.below(4);
    auto c = static_cast<int32_t>(random.below(kind == 0 ? 0x110000 : kind == 1 ? 0x3000 : 0x80));
    if (c >= 0xD800 && c < 0xE000) c = ' ';
    append_utf8(text, c);
  }
  return text;
}

std::string random_bytes(Random& random, size_t n) {
  std::string text;
  while (n-- > 0) text += static_cast<char>(random.below(2) ? random.below(256) : 'a' + random.below(4));
  return text;
}

class RoundTrip : public ::testing::TestWithParam<const char*> {};

TEST_P(RoundTrip, CharactersAndBytes) {
  const Tokenizer tokenizer = mini(GetParam());
  Random random(11);
  for (int round = 0; round < 300; ++round) {
    const std::string characters = random_characters(random, random.below(80));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(characters)), characters);
    const std::string bytes = random_bytes(random, random.below(80));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes)), bytes);
  }
}

TEST_P(RoundTrip, TruncatedCharactersAndSurrogates) {
  const Tokenizer tokenizer = mini(GetParam());
  for (const std::string text : {"\xf0\x9f\xa6", "a\xe6\xbc", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80",
                                 "\xff\xfe a", "ok \xe6\xbc\xa2\xe6 ok", "\x80\x80\x80\x80\x80"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST_P(RoundTrip, LongRuns) {
  const Tokenizer tokenizer = mini(GetParam());
  constexpr size_t kBytes = 1 << 20;
  for (const std::string unit : {"a", " ", "\n", "7", "!", "\t ", "漢", "\xff", "'", "<|"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << unit;
  }
}

// A character cut between two tokens comes out in two parts; joined they are the text.
TEST_P(RoundTrip, TokenByToken) {
  const Tokenizer tokenizer = mini(GetParam());
  const std::string text = "Hello 🦙 漢字 naïve";
  std::string joined;
  for (const int32_t id : tokenizer.encode(text, false)) joined += tokenizer.token_bytes(id);
  EXPECT_EQ(joined, text);
}
INSTANTIATE_TEST_SUITE_P(Models, RoundTrip, ::testing::Values("llama-mini", "qwen2-mini", "phi-mini"));

TEST(Tokenizer, SpecialTokensOfThePostProcessor) {
  const Tokenizer tokenizer = mini("llama-mini");
  EXPECT_EQ(tokenizer.encode("", true), Ids{2046});
  EXPECT_EQ(tokenizer.encode("", false), Ids{});
  EXPECT_EQ(tokenizer.encode("<|end_of_text|>", false), Ids{2047});
}

TEST(Tokenizer, IdsAndTokens) {
  const Tokenizer tokenizer = mini("phi-mini");
  EXPECT_EQ(tokenizer.vocab_size(), 2048);
  EXPECT_EQ(tokenizer.token_id("Ġ"), 220);  // as spelled, not as text
  EXPECT_EQ(tokenizer.token_id(" "), -1);
  EXPECT_EQ(tokenizer.token_id("no such token"), -1);
  EXPECT_EQ(tokenizer.token_bytes(220), " ");
  EXPECT_THROW(tokenizer.token_bytes(2048), Error);
  EXPECT_THROW(tokenizer.decode(Ids{1, -1}), Error);
  EXPECT_THROW(tokenizer.decode(Ids{1 << 30}), Error);
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_FALSE(tokenizer.is_special(1 << 30));
}

// Added tokens are plain text, also where their characters are in the byte alphabet.
TEST(Tokenizer, AddedTokenBytes) {
  Json json = mini_json("phi-mini");
  json["added_tokens"].push_back({{"id", 2050}, {"content", "éé"}, {"special", false}});
  const Tokenizer tokenizer = Tokenizer::from_json(json, "t");
  EXPECT_EQ(tokenizer.vocab_size(), 2051);
  EXPECT_EQ(tokenizer.encode("aéé"), (Ids{64, 2050}));
  EXPECT_EQ(tokenizer.decode(Ids{2050}), "éé");
  EXPECT_EQ(tokenizer.token_bytes(2049), "");  // an id that stands for nothing
}

TEST(Tokenizer, SeveralThreads) {
  const Tokenizer tokenizer = mini("qwen2-mini");
  const std::string text = "I'm 12 years old, they'll say\n\n  naïve 漢字 <|im_start|>user";
  const Ids expected = tokenizer.encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        if (tokenizer.encode(text) != expected || tokenizer.decode(expected, false) != text) ++count;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace nibble
