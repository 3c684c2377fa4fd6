#include "text/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(Pattern, SameInBothEngines) {
  for (const std::string pattern :
       {R"('s|'t| ?\p{L}+|\p{N}{1,3}|\d{2,}?)", R"((?i:'s|'ll)|(?:a|b)++(?!x)(?<=y)(?>z))",
        R"([^\r\n\p{L}\-\]]?+x*?)", R"([一-龥ぁ]\x{1F600}\x41\.\\ {x} {)", R"((?i)abc)",
        R"([-a]\p{^L}\P{Lu})"}) {
    EXPECT_EQ(pcre2_pattern(pattern, "p"), pattern);
  }
}

TEST(Pattern, RewritesWhatDiffers) {
  EXPECT_THAT(pcre2_pattern(R"(\s)", "p"), HasSubstr("\\x{1680}"));
  EXPECT_THAT(pcre2_pattern(R"(\s)", "p"), ::testing::Not(HasSubstr("180e")));
  EXPECT_THAT(pcre2_pattern(R"(\S+)", "p"), ::testing::StartsWith("[^"));
  EXPECT_EQ(pcre2_pattern(R"(\h[\h_]\v\u00e9)", "p"), R"([0-9A-Fa-f][0-9A-Fa-f_][\x{b}]\x{00e9})");
}

TEST(Pattern, RefusesByName) {
  for (const std::string pattern :
       {R"(\w+)",  R"(\bx)",    R"([a[bc]])", "[a&&b]",  "(?m:x)",   "(?x)a",  "a(?i)b",
        "(?<n>a)", R"(\1)",     R"(\k<n>)",   "a{2}?",   "a{1,2}+",  "a{,3}",  "[]a]",
        "[ab",     R"([\s-z])", R"([a-\s])",  R"(\xff)", R"(\u12)",  R"(\pL)", R"(\p{L)",
        "a\\",     R"(\R)",     R"(\X)",      R"(\K)",   R"(\Qa\E)", "(*UCP)a"}) {
    EXPECT_THROW(pcre2_pattern(pattern, "file.json"), Error) << pattern;
  }
  try {
    pcre2_pattern(R"(a|\w+)", "file.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("file.json"));
    EXPECT_THAT(e.what(), HasSubstr("'\\w'"));
  }
}

}  // namespace
}  // namespace nibble
