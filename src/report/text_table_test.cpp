#include "report/text_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace nibble::report {
namespace {

using ::testing::ElementsAre;

TEST(TextTable, MarkdownIsAlignedWhenReadRaw) {
  const TextTable table{{{"Model"}, {"MB", Align::kRight}}, {{"naïve", "−1.5"}, {"a|b\nc", "12"}}, {}};
  EXPECT_EQ(to_markdown(table),
            "| Model  |   MB |\n"
            "| ------ | ---: |\n"
            "| naïve  | −1.5 |\n"
            "| a\\|b c |   12 |\n");
}

TEST(TextTable, MarkdownKeepsThreeDashes) {
  const TextTable table{{{"p", Align::kRight}}, {{"1"}}, {}};
  EXPECT_EQ(to_markdown(table), "|   p |\n| --: |\n|   1 |\n");
}

TEST(TextTable, WrapsAtSpacesAndCutsLongWords) {
  EXPECT_THAT(wrap("one two three", 7), ElementsAre("one two", "three"));
  EXPECT_THAT(wrap("é−é−é−é", 3), ElementsAre("é−é", "−é−", "é"));
  EXPECT_THAT(wrap("ab cdefgh", 4), ElementsAre("ab", "cdef", "gh"));
  EXPECT_THAT(wrap("", 4), ElementsAre(""));
}

TEST(TextTable, TerminalFitsTheWidthAndDropsControlCharacters) {
  TextTable table{{{"Model"}, {"Reason"}, {"MB", Align::kRight}},
                  {{"a", "a long reason with many words in it", "1.0"}, {"\x1b[31mred", "x", "20.0"}},
                  {"a note that is far longer than the width allows"}};
  const std::string text = to_terminal(table, 34);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  std::istringstream lines(text);
  size_t n = 0;
  for (std::string line; std::getline(lines, line); ++n) EXPECT_LE(display_width(line), 34u) << line;
  EXPECT_GT(n, 6u);
  EXPECT_NE(text.find("\n    a note that is far longer"), std::string::npos) << text;
}

}  // namespace
}  // namespace nibble::report
