#include "io/toml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of(const std::string& text) {
  try {
    parse_toml(text, "f.toml");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

std::string dotted(size_t parts) {
  std::string key = "a";
  for (size_t i = 1; i < parts; ++i) key += ".a";
  return key;
}

TEST(HostileToml, ErrorsNameTheLineInOneLine) {
  EXPECT_EQ(parse_toml("[a.b]\nc = 1", "f.toml")["a"]["b"]["c"].value<int>(), 1);
  EXPECT_THAT(error_of("a = 1\nb = ["), HasSubstr("f.toml line 2: "));
  EXPECT_THAT(error_of("a = 1\n\"x\\q"), Not(HasSubstr("\n")));
}

TEST(HostileToml, KeysOfManyPartsAreRefusedBeforeTheyFillTheStack) {
  for (const std::string& text :
       {"x = 1\n" + dotted(300'000) + " = 1", "\n[" + dotted(300'000) + "]",
        "\nx = {" + dotted(300'000) + " = 1}", "\nx = '...'\ny" + std::string(900'000, '.')})
    EXPECT_THAT(error_of(text), HasSubstr("a key of more than 32 parts")) << text.substr(0, 20);
  EXPECT_EQ(error_of(dotted(32) + " = 1"), "");
  // Dots elsewhere are no parts.
  EXPECT_EQ(error_of("x = '" + std::string(500, '.') + "'\ny = \"\"\"" + std::string(500, '.') + "\n\"\"\""),
            "");
  std::string numbers = "x = [0.5";
  for (int i = 0; i < 500; ++i) numbers += ", 0.5";
  EXPECT_EQ(error_of(numbers + "]"), "");
}

}  // namespace
}  // namespace nibble
