#include "eval/encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_language_model.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

Ids join(const LoglikRequest& request) {
  Ids all = request.context;
  all.insert(all.end(), request.continuation.begin(), request.continuation.end());
  return all;
}

TEST(Encoding, ContextAndContinuationAreTokenizedTogether) {
  for (const char* model : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const Tokenizer tokenizer = testing::mini_tokenizer(model);
    const std::string context = "The mill stands in Tollin.\nQuestion: is it old?\nAnswer:";
    const EncodedPair pair = encode_pair(tokenizer, context, " yes", 1024);
    EXPECT_EQ(pair.request.context, tokenizer.encode(context));
    EXPECT_EQ(join(pair.request), tokenizer.encode(context + " yes"));
    EXPECT_EQ(tokenizer.decode(pair.request.continuation), " yes");
    EXPECT_FALSE(pair.truncated);
  }
}

TEST(Encoding, TrailingSpacesOfTheContextMoveToTheContinuation) {
  const Tokenizer tokenizer = testing::mini_tokenizer("llama-mini");
  const EncodedPair moved = encode_pair(tokenizer, "Answer: ", "yes", 1024);
  const EncodedPair plain = encode_pair(tokenizer, "Answer:", " yes", 1024);
  EXPECT_EQ(moved.request.context, plain.request.context);
  EXPECT_EQ(moved.request.continuation, plain.request.continuation);
}

TEST(Encoding, TheContextLosesItsHeadButNotItsStartToken) {
  const std::string context = "one two three four five six seven eight nine ten:";
  for (const char* model : {"llama-mini", "qwen2-mini"}) {
    const Tokenizer tokenizer = testing::mini_tokenizer(model);
    const Ids whole = tokenizer.encode(context + " yes");
    const EncodedPair pair = encode_pair(tokenizer, context, " yes", 8);
    EXPECT_TRUE(pair.truncated);
    const Ids cut = join(pair.request);
    ASSERT_EQ(cut.size(), 8u);
    const bool starts = tokenizer.start_token() >= 0;
    EXPECT_EQ(starts, std::string(model) == "llama-mini");
    EXPECT_EQ(cut.front() == tokenizer.start_token(), starts);
    EXPECT_TRUE(std::equal(cut.begin() + starts, cut.end(), whole.end() - 8 + starts));
  }
}

TEST(Encoding, APromptIsCutLikewise) {
  const Tokenizer tokenizer = testing::mini_tokenizer("llama-mini");
  const std::string text = "one two three four five six";
  const Ids whole = tokenizer.encode(text);
  const EncodedPrompt all = encode_prompt(tokenizer, text, static_cast<int>(whole.size()));
  EXPECT_EQ(all.tokens, whole);
  EXPECT_FALSE(all.truncated);
  const EncodedPrompt cut = encode_prompt(tokenizer, text, 3);
  EXPECT_EQ(cut.tokens, (Ids{whole[0], whole[whole.size() - 2], whole.back()}));
  EXPECT_TRUE(cut.truncated);
}

TEST(Encoding, WhatCannotBeScoredIsAnError) {
  const Tokenizer tokenizer = testing::mini_tokenizer("qwen2-mini");
  EXPECT_THAT(testing::error_of([&] { encode_pair(tokenizer, "", " yes", 64); }), HasSubstr("no tokens"));
  EXPECT_THAT(testing::error_of([&] { encode_pair(tokenizer, "Answer:", "", 64); }), HasSubstr("no tokens"));
  EXPECT_THAT(testing::error_of([&] { encode_pair(tokenizer, "A:", " one two three four five six", 5); }),
              HasSubstr("context of 5"));
  EXPECT_THAT(testing::error_of([&] { encode_prompt(tokenizer, "", 5); }), HasSubstr("no tokens"));
}

}  // namespace
}  // namespace nibble
