#include "eval/gsm8k_answer.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "test_data.h"

namespace nibble {
namespace {

const Json& golden() {
  static const Json json = read_json_file(testing::source_dir() / "tests" / "golden" / "gsm8k_answers.json");
  return json;
}

void expect_match(const std::optional<std::string>& found, const Json& expected, const Json& row) {
  EXPECT_EQ(found, expected.is_null() ? std::nullopt : std::optional(expected.get<std::string>())) << row;
}

TEST(Gsm8kAnswer, ExtractsWhatTheRegularExpressionsDo) {
  const Json& rows = golden()["extracted"];
  ASSERT_GT(rows.size(), 300u);
  for (const Json& row : rows) {
    const std::string text = row["text"];
    expect_match(extract_strict(text), row["strict"], row);
    expect_match(extract_flexible(text), row["flexible"], row);
  }
}

TEST(Gsm8kAnswer, NormalizesLikeTheHarness) {
  for (const Json& row : golden()["normalized"]) {
    EXPECT_EQ(normalize_answer(row["text"].get<std::string>()), row["answer"].get<std::string>()) << row;
  }
}

TEST(Gsm8kAnswer, AnswersThatPeopleWrite) {
  EXPECT_EQ(normalize_answer(*extract_flexible("It costs $1,234.50.")), "1234.50");
  EXPECT_EQ(normalize_answer(*extract_strict("so\n#### 42.")), "42");
  EXPECT_EQ(normalize_answer(*extract_strict("#### -7")), "-7");
  EXPECT_EQ(extract_strict("####42"), std::nullopt);
  EXPECT_EQ(*extract_flexible("####42"), "42");
  EXPECT_EQ(extract_flexible("no number here"), std::nullopt);
  EXPECT_EQ(normalize_answer("She sells 9 * 2 = $<<9*2=18>>18.\n#### 1,018"), "1018");
}

TEST(Gsm8kAnswer, LongRunsNeedNoStack) {
  const std::string dots(5'000'000, '.');
  EXPECT_EQ(extract_flexible(dots)->size(), dots.size());
  EXPECT_EQ(extract_strict(std::string(5'000'000, '#')), std::nullopt);
}

}  // namespace
}  // namespace nibble
