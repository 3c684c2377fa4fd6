// A tokenizer.json that is wrong in any way ends in an Error of one line, never in a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

// Small, and with every kind of part that is supported.
Json small() {
  return parse_json(R"({
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+"}, "behavior": "Isolated", "invert": false},
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
    "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}}]},
    "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 5, "content": "<s>", "special": true, "normalized": false, "single_word": false,
                      "lstrip": false, "rstrip": false}],
    "model": {"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix": "", "ignore_merges": false,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3, "Ġ": 4}, "merges": ["a b", ["ab", "b"]]}})",
                    "small");
}

// The same of SentencePiece's kind.
Json small_sentencepiece() {
  return parse_json(R"({
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
      {"type": "Metaspace", "replacement": "▁", "add_prefix_space": true}]},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "added_tokens": [{"id": 5, "content": "<s>", "special": true, "normalized": true, "single_word": false,
                      "lstrip": false, "rstrip": true}],
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
              "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4, "<0xC3>": 6, "<0xA9>": 7, "▁ab": 8, "abb": 9},
              "merges": ["a b", "▁ ab", "ab b"]}})",
                    "small");
}

std::string error_of(const Json& json) {
  try {
    Tokenizer::from_json(json, "file.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void expect_error(const char* pointer, Json value, const std::string& part) {
  Json json = small();
  json[Json::json_pointer(pointer)] = std::move(value);
  const std::string message = error_of(json);
  EXPECT_THAT(message, HasSubstr("file.json")) << pointer;
  EXPECT_THAT(message, HasSubstr(part)) << pointer;
  EXPECT_THAT(message, ::testing::Not(HasSubstr("\n")));
  EXPECT_LT(message.size(), 600u);
}

TEST(HostileTokenizer, TheSmallOneWorks) {
  const Tokenizer tokenizer = Tokenizer::from_json(small(), "small");
  EXPECT_EQ(tokenizer.encode("abb ab"), (std::vector<int32_t>{5, 3, 4, 2}));
  const Tokenizer other = Tokenizer::from_json(small_sentencepiece(), "small");
  EXPECT_EQ(other.encode("abb ab é€ <s>  ab"), (std::vector<int32_t>{8, 2, 8, 4, 6, 7, 0, 5, 4, 8}));
}

TEST(HostileTokenizer, NotSupportedByName) {
  expect_error("/model/type", "WordPiece", "WordPiece");
  expect_error("/model/byte_fallback", true, "ByteLevel");
  expect_error("/model/dropout", 0.1, "dropout");
  expect_error("/model/continuing_subword_prefix", "##", "##");
  expect_error("/model/end_of_word_suffix", "</w>", "</w>");
  expect_error("/model/unk_token", "<unk>", "<unk>");
  expect_error("/normalizer/type", "NFKC", "NFKC");
  expect_error("/decoder/type", "Metaspace", "Metaspace");
  expect_error("/post_processor/type", "BertProcessing", "BertProcessing");
  expect_error("/pre_tokenizer/pretokenizers/0/type", "Metaspace", "Metaspace");
  for (const char* behavior : {"Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"}) {
    expect_error("/pre_tokenizer/pretokenizers/0/behavior", behavior, behavior);
  }
  expect_error("/pre_tokenizer/pretokenizers/0/invert", true, "invert");
  expect_error("/pre_tokenizer/pretokenizers/0/pattern", {{"Regex", R"(\w+)"}}, "\\w");
  expect_error("/pre_tokenizer/pretokenizers/0/pattern", {{"Regex", "("}}, "parenthesis");
  expect_error("/pre_tokenizer/pretokenizers/3", {{"type", "Digits"}}, "after ByteLevel");
  expect_error("/pre_tokenizer/pretokenizers/0/type", "New\nLine", "New Line");
  expect_error("/pre_tokenizer/pretokenizers/0/pattern", {{"Regex", std::string(60000, '(') + "\n"}}, "((((");
  expect_error("/pre_tokenizer", nullptr, "ByteLevel");
  expect_error("/pre_tokenizer", {{"type", "Digits"}}, "ByteLevel");
}

TEST(HostileTokenizer, IdsAndMerges) {
  for (const char* pointer :
       {"/model/vocab/a", "/added_tokens/0/id", "/post_processor/processors/1/special_tokens/<s>/ids/0"}) {
    expect_error(pointer, -1, "-1");
    expect_error(pointer, 1 << 30, "1073741824");
    expect_error(pointer, UINT64_MAX, "18446744073709551615");
    expect_error(pointer, INT64_MIN, "-9223372036854775808");
    expect_error(pointer, 0.5, "integer");
    expect_error(pointer, true, "integer");
    expect_error(pointer, "0", "integer");
  }
  expect_error("/model/vocab/b", 0, "id 0");
  expect_error("/added_tokens/0/id", 2, "id 2");
  expect_error("/added_tokens/0/content", "ab", "ab");
  expect_error("/added_tokens/0/content", "", "empty");
  expect_error("/post_processor/processors/1/special_tokens/<s>/ids/0", 6, "vocabulary of 6");
  expect_error("/model/vocab", Json::object(), "empty");
  expect_error("/model/merges/0", "a c", "'c'");
  expect_error("/model/merges/0", "b a", "'ba'");
  for (const Json& merge : {Json("ab"), Json("a b b"), Json::array({"a"}), Json::array({"a", "b", "b"}),
                            Json::array({"a", 1}), Json(1), Json(), Json::object()}) {
    expect_error("/model/merges/0", merge, "merge 0");
  }
}

TEST(HostileTokenizer, Templates) {
  const std::string single = "/post_processor/processors/1/single";
  expect_error(single.c_str(), Json::array(), "A");
  expect_error((single + "/1").c_str(), {{"Sequence", {{"id", "B"}}}}, "B");
  expect_error((single + "/0").c_str(), {{"Sequence", {{"id", "A"}}}}, "once");
  expect_error((single + "/0").c_str(), {{"SpecialToken", {{"id", "<t>"}}}}, "<t>");
  expect_error((single + "/0").c_str(), "<s>", "neither");
}

TEST(HostileTokenizer, DeepNesting) {
  for (const auto& [key, inner, leaf] : {std::tuple{"normalizer", "normalizers", "NFC"},
                                         std::tuple{"pre_tokenizer", "pretokenizers", "ByteLevel"},
                                         std::tuple{"post_processor", "processors", "ByteLevel"}}) {
    Json json = small(), node = {{"type", leaf}};
    for (int i = 0; i < 50; ++i) node = Json{{"type", "Sequence"}, {inner, Json::array({node})}};
    json[key] = node;
    EXPECT_THAT(error_of(json), HasSubstr("nested deeper")) << key;
  }
}

// Every value of the file replaced by something of another kind, or taken out: an Error, or a
// tokenizer that works. Anything else (another exception, a crash, a sanitizer's report) fails.
void replace_every_value(const Json& whole) {
  const Json replacements[] = {nullptr,
                               true,
                               -1,
                               3,
                               1e300,
                               UINT64_MAX,
                               "",
                               "x",
                               std::string(1000, '('),
                               Json::array(),
                               Json::array({1, "a", nullptr}),
                               Json::object(),
                               {{"type", "Sequence"}},
                               {{"id", {}}}};
  const Json flat = whole.flatten();
  std::vector<std::string> pointers = {""};
  for (const auto& [path, unused] : flat.items()) {
    for (std::string pointer = path; !pointer.empty(); pointer.resize(pointer.rfind('/')))
      pointers.push_back(pointer);
  }
  int errors = 0, tried = 0;
  const auto attempt = [&](const Json& json, const std::string& what) {
    ++tried;
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(json, "file.json");
      tokenizer.decode(tokenizer.encode("abb <s> é1\xff"));
    } catch (const Error& e) {
      ++errors;
      EXPECT_THAT(e.what(), HasSubstr("file.json"));
    } catch (const std::exception& e) {
      ADD_FAILURE() << what << ": " << e.what();
    }
  };
  for (const std::string& text : pointers) {
    const Json::json_pointer pointer(text);
    for (const Json& replacement : replacements) {
      Json json = whole;
      json[pointer] = replacement;
      attempt(json, text + " = " + replacement.dump());
    }
    if (text.empty()) continue;
    Json json = whole;
    Json& parent = json[pointer.parent_pointer()];
    if (parent.is_array()) {
      parent.erase(static_cast<size_t>(std::stoul(pointer.back())));
    } else {
      parent.erase(pointer.back());
    }
    attempt(json, text + " missing");
  }
  EXPECT_GT(tried, 1000);
  EXPECT_GT(errors, tried / 2);
}

TEST(HostileTokenizer, EveryValueReplacedOrMissing) { replace_every_value(small()); }
TEST(HostileTokenizer, EveryValueOfSentencePieceReplacedOrMissing) {
  replace_every_value(small_sentencepiece());
}

}  // namespace
}  // namespace nibble
