#include "text/splitter.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace nibble {
namespace {

std::vector<std::string> pieces(const RegexSplitter& splitter, std::string_view text) {
  MatchState state;
  std::vector<std::string> result;
  splitter.split(text, state, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

using Pieces = std::vector<std::string>;

TEST(Splitter, MatchesAndGaps) {
  const auto digits = RegexSplitter::from_pattern(R"(\p{N}+)", "t");
  EXPECT_EQ(pieces(digits, "ab12c3"), (Pieces{"ab", "12", "c", "3"}));
  EXPECT_EQ(pieces(digits, "٣½x"), (Pieces{"٣½", "x"}));
  EXPECT_EQ(pieces(digits, ""), Pieces{});
  EXPECT_EQ(pieces(digits, std::string_view("1\0"
                                            "2",
                                            3)),
            (Pieces{"1", std::string(1, '\0'), "2"}));
}

TEST(Splitter, EmptyMatchesCutAndEnd) {
  EXPECT_EQ(pieces(RegexSplitter::from_pattern("x*", "t"), "aéxxb"), (Pieces{"a", "é", "xx", "b"}));
  EXPECT_EQ(pieces(RegexSplitter::from_pattern("(?=b)", "t"), "abab"), (Pieces{"a", "ba", "b"}));
}

TEST(Splitter, WhiteSpaceAsOniguruma) {
  const auto space = RegexSplitter::from_pattern(R"(\s)", "t");
  EXPECT_EQ(pieces(space, "a\u0085b\u00a0c\u3000d"),
            (Pieces{"a", "\u0085", "b", "\u00a0", "c", "\u3000", "d"}));
  EXPECT_EQ(pieces(space,
                   "a\u180eb\u200bc\x1c"
                   "d"),
            (Pieces{"a\u180eb\u200bc\x1c"
                    "d"}));
  // The complement, in a set, is exact: every character is in one of the two.
  const auto either = RegexSplitter::from_pattern(R"([\s]|[\S])", "t");
  const auto solid = RegexSplitter::from_pattern(R"([\S]+)", "t");
  for (int32_t c = 1; c < 0x3100; ++c) {
    if (c == 0xD800) break;
    std::string text = "x";
    text += c < 0x80 ? std::string(1, static_cast<char>(c))
            : c < 0x800
                ? std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))}
                : std::string{static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                              static_cast<char>(0x80 | (c & 63))};
    const bool is_space = pieces(space, text).size() == 2;
    EXPECT_EQ(pieces(solid, text).size(), is_space ? 2u : 1u) << c;
    EXPECT_EQ(pieces(either, text).size(), 2u) << c;
  }
}

TEST(Splitter, LiteralText) {
  EXPECT_EQ(pieces(RegexSplitter::from_literal("a.b", "t"), "a.baxb"), (Pieces{"a.b", "axb"}));
}

TEST(Splitter, BadPatternsAreErrors) {
  for (const std::string pattern : {"(", "a)", "*", "[z-a]", R"(\p{Nonsense})", "(?<=a+)b", "a{70000}"}) {
    EXPECT_THROW(RegexSplitter::from_pattern(pattern, "t"), Error) << pattern;
  }
  EXPECT_THROW(RegexSplitter::from_pattern(std::string(100'000, 'a'), "t"), Error);
  EXPECT_THROW(RegexSplitter::from_pattern(std::string(10'000, '('), "t"), Error);
  EXPECT_THROW(RegexSplitter::from_pattern("((((a{100}){100}){100}){100})", "t"), Error);
}

TEST(Splitter, LongRepeatsOfGroupsFallBackToTheHeap) {
  // Each round leaves a place to come back to; a million of them do not fit JIT's stack.
  const auto splitter = RegexSplitter::from_pattern(R"((?:\p{L}|\p{N})+(?!\S)|x)", "t");
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(pieces(splitter, text), Pieces{text});
}

TEST(Splitter, CatastrophicBacktrackingIsAnError) {
  const auto splitter = RegexSplitter::from_pattern("(?:a+)+[bc]", "t");
  EXPECT_THROW(pieces(splitter, std::string(5000, 'a')), Error);
}

}  // namespace
}  // namespace nibble
