// Tokenizers of SentencePiece's kind against the ids and texts that Hugging Face's tokenizers gives
// (scripts/golden_sentencepiece.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

using SentencePieceIds = std::vector<int32_t>;

// Leaves out the tokens that hold one of `parts`, and the merges of such.
void take_out(Json& model, const Json& parts) {
  const auto gone = [&](const std::string& text) {
    return std::ranges::any_of(
        parts, [&](const Json& part) { return text.find(part.get<std::string>()) != std::string::npos; });
  };
  Json vocab = Json::object(), merges = Json::array();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!gone(token)) vocab[token] = id;
  }
  for (const Json& merge : model["merges"]) {
    std::string joined = merge.get<std::string>();
    joined.erase(joined.find(' '), 1);
    if (!gone(joined)) merges.push_back(merge);
  }
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
}

const Json& golden_sentencepiece() {
  static const Json golden =
      read_json_file(testing::source_dir() / "tests" / "golden" / "sentencepiece.json");
  return golden;
}

Tokenizer sentencepiece_tokenizer(const Json& changes) {
  Json json = golden_sentencepiece()["base"];
  for (const auto& [key, value] : changes.items()) {
    if (key == "model") continue;
    json[key] = value;
  }
  const Json model = changes.value("model", Json::object());
  for (const auto& [key, value] : model.items()) {
    if (key == "without") {
      take_out(json["model"], value);
    } else {
      json["model"][key] = value;
    }
  }
  return Tokenizer::from_json(json, "sentencepiece.json");
}

TEST(SentencePiece, AllVariantsAsHuggingFace) {
  size_t encoded = 0, decoded = 0;
  for (const Json& variant : golden_sentencepiece()["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const Tokenizer tokenizer = sentencepiece_tokenizer(variant["changes"]);
    for (const Json& row : variant["cases"]) {
      const auto text = row["text"].get<std::string>();
      const auto ids = row["ids"].get<SentencePieceIds>();
      EXPECT_EQ(tokenizer.encode(text), ids) << row["text"];
      if (!row["decoded"].is_null()) {
        EXPECT_EQ(tokenizer.decode(ids), row["decoded"].get<std::string>()) << row["text"];
        EXPECT_EQ(tokenizer.decode(ids, false), row["with_specials"].get<std::string>()) << row["text"];
        ++decoded;
      }
      std::string streamed;  // token by token, as generated text comes
      for (const int32_t id : ids) streamed += tokenizer.is_special(id) ? "" : tokenizer.token_bytes(id);
      EXPECT_EQ(streamed, tokenizer.decode_within(ids)) << row["text"];
      ++encoded;
    }
  }
  EXPECT_GT(encoded, 500u);
  EXPECT_GT(decoded, 490u);
}

TEST(SentencePiece, TokensAndTheirBytes) {
  const Tokenizer tokenizer = sentencepiece_tokenizer(Json::object());
  EXPECT_EQ(tokenizer.start_token(), 1);
  EXPECT_TRUE(tokenizer.is_special(2));
  EXPECT_EQ(tokenizer.token_id("<0x0A>"), 3 + 0x0a);
  EXPECT_EQ(tokenizer.token_bytes(3 + 0x0a), "\n");
  EXPECT_EQ(tokenizer.token_bytes(3 + 0xff), "\xff");
  const int32_t the = tokenizer.token_id("▁The");
  ASSERT_GE(the, 0);
  EXPECT_EQ(tokenizer.token_bytes(the), " The");
  EXPECT_EQ(tokenizer.decode(SentencePieceIds{the, the}), "The The");
  EXPECT_EQ(tokenizer.decode_within(SentencePieceIds{the, the}), " The The");
  EXPECT_EQ(tokenizer.encode("", false), SentencePieceIds{});
  // Bytes that are not UTF-8 are their tokens, and come back.
  const std::string broken = "a\xff\xe4 b\xf0\x9f\xa6";
  const SentencePieceIds ids = tokenizer.encode(broken);
  EXPECT_NE(std::ranges::find(ids, 3 + 0xff), ids.end());
  EXPECT_EQ(tokenizer.decode(ids), broken);
}

TEST(SentencePiece, LongTextWithoutABreak) {
  const Tokenizer tokenizer = sentencepiece_tokenizer(Json::object());
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "The bridge \U0001f999";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  const std::string spaces(300000, ' ');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(spaces)), spaces);
}

std::string sentencepiece_error(const char* pointer, const Json& value) {
  Json json = golden_sentencepiece()["base"];
  json[Json::json_pointer(pointer)] = value;
  try {
    Tokenizer::from_json(json, "file.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(HostileSentencePiece, WhatIsNotSupportedIsNamedInOneLine) {
  const std::string longer(65, 'x');
  const Json digits = {{"type", "Digits"}};
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "b"}};
  const Json regex = {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", "b"}};
  const Json empty = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "b"}};
  const Json growing = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "bbbbb"}};
  const Json prepend = {{"type", "Prepend"}, {"prepend", longer}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const auto metaspace = [](const char* key, const Json& value) {
    Json node = {{"type", "Metaspace"}, {"replacement", "▁"}};
    node[key] = value;
    return node;
  };
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"/model/type", "Unigram", "'Unigram' is not supported"},
      {"/model/type", "WordPiece", "'WordPiece' is not supported"},
      {"/model/type", "WordLevel", "'WordLevel' is not supported"},
      {"/model/byte_fallback", false, "ByteLevel"},
      {"/normalizer", {{"type", "Precompiled"}}, "'Precompiled' is not supported"},
      {"/normalizer", regex, "regular expression"},
      {"/normalizer", empty, "empty text"},
      {"/normalizer", growing, "5 bytes"},
      {"/normalizer", prepend, "Prepend of 65 bytes"},
      {"/normalizer/normalizers", Json::array({replace, replace, replace}), "more than 2 Replace"},
      {"/pre_tokenizer", {{"type", "ByteLevel"}}, "'ByteLevel' is not supported"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "'Whitespace' is not supported"},
      {"/pre_tokenizer", metaspace("replacement", ""), "not one character"},
      {"/pre_tokenizer", metaspace("replacement", "__"), "not one character"},
      {"/pre_tokenizer", metaspace("prepend_scheme", "last"), "'last'"},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "replacement"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"},
        {"replacement", "_"},
        {"add_prefix_space", false},
        {"prepend_scheme", "first"}},
       "no add_prefix_space"},
      {"/decoder", nullptr, "decoder is missing"},
      {"/decoder", {{"type", "Metaspace"}}, "'Metaspace' is not supported"},
      {"/decoder", {{"type", "ByteLevel"}}, "'ByteLevel' is not supported"},
      {"/decoder", {{"type", "Sequence"}}, "'decoders' is not an array"},
      {"/decoder/decoders/1", {{"type", "Fuse"}}, "'Fuse' is not supported there"},
      {"/decoder/decoders/1", digits, "'Digits' is not supported there"},
      {"/decoder/decoders", Json::array({{{"type", "Fuse"}}}), "no ByteFallback"},
      {"/decoder/decoders", Json::array({{{"type", "ByteFallback"}}, strip}), "Strip without Fuse"},
      {"/decoder/decoders/3/stop", 1, "Strip"},
      {"/decoder/decoders/3/start", -1, "Strip"},
      {"/decoder/decoders/3/content", "\n", "Strip"},
  };
  for (const auto& [pointer, value, part] : cases) {
    const std::string message = sentencepiece_error(pointer, value);
    EXPECT_THAT(message, ::testing::HasSubstr(part)) << pointer;
    EXPECT_THAT(message, ::testing::StartsWith("file.json")) << pointer;
    EXPECT_EQ(message.find('\n'), std::string::npos) << pointer;
  }
}

// Longer than the whole file that a reader takes, once the normalizer has made them so.
TEST(HostileSentencePiece, AddedTokensThatGrow) {
  Json token = {{"id", 1000}, {"content", std::string(400000, ' ')}, {"normalized", true}};
  EXPECT_THAT(sentencepiece_error("/added_tokens/3", token),
              ::testing::HasSubstr("added tokens of more than"));
  token["content"] = std::string(300000, ' ');
  EXPECT_EQ(sentencepiece_error("/added_tokens/3", token), "");
}

}  // namespace
}  // namespace nibble
