// Token ids of other people's tokenizers: data/mini/golden and the shared goldens, all exact.
#include <gtest/gtest.h>

#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;
namespace fs = std::filesystem;

Tokenizer load(const fs::path& path) { return Tokenizer::from_json(read_json_file(path), path.string()); }

fs::path real_tokenizer(const std::string& key) {
  const std::string folder = key == "llama3" ? "llama-3.2" : key == "phi" ? "phi-1.5" : key;
  return testing::shared_dir() / "tokenizers" / folder / "tokenizer.json";
}

class MiniGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(MiniGolden, SixtyStrings) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = load(testing::mini_dir() / "models" / name / "tokenizer.json");
  const Json golden = read_json_file(testing::mini_dir() / "golden" / (name + ".json"));
  ASSERT_EQ(golden["token_ids"].size(), 60u);
  for (const Json& row : golden["token_ids"]) {
    const auto text = row["text"].get<std::string>();
    const Ids ids = row["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    const bool starts = tokenizer.start_token() >= 0;
    EXPECT_EQ(tokenizer.decode(std::span(ids).subspan(starts ? 1 : 0), false), text);
  }
}
INSTANTIATE_TEST_SUITE_P(Models, MiniGolden, ::testing::Values("llama-mini", "qwen2-mini", "phi-mini"));

TEST(MiniTokenizers, StartTokenAndSpecials) {
  const Tokenizer llama = load(testing::mini_dir() / "models" / "llama-mini" / "tokenizer.json");
  EXPECT_EQ(llama.vocab_size(), 2048);
  EXPECT_EQ(llama.start_token(), 2046);
  EXPECT_EQ(llama.token_id("<|end_of_text|>"), 2047);
  EXPECT_TRUE(llama.is_special(2047));
  EXPECT_FALSE(llama.is_special(2045));
  EXPECT_EQ(llama.token_bytes(2046), "<|begin_of_text|>");
  EXPECT_EQ(llama.decode(Ids{2046, 2047}, true), "");
  EXPECT_EQ(llama.decode(Ids{2046, 2047}, false), "<|begin_of_text|><|end_of_text|>");
  const Tokenizer phi = load(testing::mini_dir() / "models" / "phi-mini" / "tokenizer.json");
  EXPECT_EQ(phi.start_token(), -1);
}

class RealGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(RealGolden, Strings) {
  const std::string key = GetParam();
  const fs::path path = testing::shared_dir() / "golden" / "token_ids.jsonl";
  NIBBLE_NEEDS(path);
  const Tokenizer tokenizer = load(real_tokenizer(key));
  const auto rows = read_json_lines(path);
  ASSERT_EQ(rows.size(), 251u);
  for (const Json& row : rows) {
    const auto text = row["text"].get<std::string>();
    const auto ids = row[key].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, false), ids) << text;
    if (key != "qwen2") {  // whose ids are of the text in NFC
      EXPECT_EQ(tokenizer.decode(ids, false), text);
    }
  }
}

// The rows of Hugging Face's wikitext-2-raw-v1: one per line, blank lines without their space and line end.
std::string joined_rows(const std::string& file) {
  std::istringstream lines(file);
  std::string joined, line;
  for (bool first = true; std::getline(lines, line); first = false) {
    if (!first) joined += "\n\n";
    if (line.find_first_not_of(" \t\r") != std::string::npos) joined += line + "\n";
  }
  return joined;
}

std::string sha256_of_ids(const Ids& ids) {
  std::string bytes;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(id >> shift);
  }
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

TEST_P(RealGolden, WikiText) {
  const std::string key = GetParam();
  const fs::path path = testing::shared_dir() / "data" / "wikitext2" / "wiki.test.raw";
  NIBBLE_NEEDS(path);
  const Tokenizer tokenizer = load(real_tokenizer(key));
  const Json golden = read_json_file(testing::shared_dir() / "golden" / "wikitext2_test_token_counts.json");
  const std::string file = read_file(path);
  const std::pair<std::string, std::string> forms[] = {{"wiki.test.raw (file as is)", file},
                                                       {"\"\\n\\n\".join(HF rows)", joined_rows(file)}};
  for (const auto& [form, text] : forms) {
    SCOPED_TRACE(form);
    ASSERT_TRUE(golden.contains(form + " / " + key));
    const Json& expected = golden[form + " / " + key];
    const Ids ids = tokenizer.encode(text, false);
    EXPECT_EQ(ids.size(), expected["n"].get<size_t>());
    EXPECT_EQ(Ids(ids.begin(), ids.begin() + 16), expected["first16"].get<Ids>());
    EXPECT_EQ(sha256_of_ids(ids), expected["sha256_u32le"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, false), text);
  }
}

// llama.cpp's own strings; a result line holds the ids of one. Its GPT-2 file goes with Phi's
// tokenizer, which has GPT-2's vocabulary and besides tokens for runs of spaces and tabs, so
// strings with such runs are left out there.
TEST_P(RealGolden, LlamaCppStrings) {
  const std::string key = GetParam();
  const std::string name = key == "llama3" ? "llama-bpe" : key == "phi" ? "gpt-2" : key;
  const fs::path path = testing::shared_dir() / "golden" / ("ggml-vocab-" + name + ".inp");
  NIBBLE_NEEDS(path);
  const Tokenizer tokenizer = load(real_tokenizer(key));
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string input = read_file(path);
  std::istringstream results(read_file(testing::shared_dir() / "golden" / ("ggml-vocab-" + name + ".out")));
  int compared = 0;
  for (size_t begin = 0; begin != std::string::npos;) {
    const size_t end = input.find(separator, begin);
    const std::string text = input.substr(begin, end == std::string::npos ? end : end - begin);
    begin = end == std::string::npos ? end : end + separator.size();
    std::string line;
    if (!std::getline(results, line)) {
      EXPECT_EQ(text, "");  // what follows the last separator
      break;
    }
    if (key == "phi" && (text.find("  ") != std::string::npos || text.find("\t\t") != std::string::npos))
      continue;
    std::istringstream numbers(line);
    Ids ids;
    for (int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer.encode(text, false), ids) << text;
    ++compared;
  }
  EXPECT_GE(compared, 35);
}
INSTANTIATE_TEST_SUITE_P(Tokenizers, RealGolden, ::testing::Values("llama3", "qwen2", "phi"));

}  // namespace
}  // namespace nibble
