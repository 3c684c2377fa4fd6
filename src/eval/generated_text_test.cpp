#include "eval/generated_text.h"

#include <gtest/gtest.h>

#include "model/model.h"
#include "test_data.h"

namespace nibble {
namespace {

class GeneratedTextTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ = load_tokenizer(testing::mini_dir() / "models/llama-mini");
  // The text when `input`'s tokens come one by one, and whether a stop string ended it.
  std::pair<std::string, bool> feed(const std::string& input, const std::vector<std::string>& stop) {
    GeneratedText text(*tokenizer_, stop);
    for (const int32_t id : tokenizer_->encode(input, false)) {
      if (text.add(id)) return {text.text(), true};
    }
    return {text.text(), false};
  }
};

TEST_F(GeneratedTextTest, StopStringsMaySpanTokens) {
  using Result = std::pair<std::string, bool>;
  const std::string text = "The answer is 42.\n\nQuestion: what now?";
  EXPECT_EQ(feed(text, {}), Result(text, false));
  EXPECT_EQ(feed(text, {"Question:"}), Result("The answer is 42.\n\n", true));
  EXPECT_EQ(feed(text, {"Question!", "42.\n\nQ"}), Result("The answer is ", true));
  EXPECT_EQ(feed(text, {"what", "The"}), Result("", true));
  EXPECT_EQ(feed(text, {""}), Result(text, false));
}

TEST_F(GeneratedTextTest, SpecialTokensStopButAreNotText) {
  using Result = std::pair<std::string, bool>;
  int32_t special = -1;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    if (tokenizer_->is_special(id)) special = id;
  }
  ASSERT_GE(special, 0);
  const std::string spelled = tokenizer_->token_bytes(special);
  EXPECT_EQ(feed("one" + spelled + " two", {}), Result("one two", false));
  EXPECT_EQ(feed("one" + spelled + " two", {spelled}), Result("one", true));
  EXPECT_EQ(feed("one" + spelled + " two", {" tw"}), Result("one", true));
}

TEST_F(GeneratedTextTest, IdsPastTheTokenizerSpellNothing) {
  GeneratedText text(*tokenizer_, {});
  EXPECT_FALSE(text.add(tokenizer_->vocab_size() + 5));
  EXPECT_EQ(text.text(), "");
}

}  // namespace
}  // namespace nibble
