// Every feature of tokenizer.json against the ids that Hugging Face's tokenizers gives
// (tests/golden/make_tokenizer_variants.py: phi-mini's tokenizer with parts replaced).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "test_data.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

bool holds_any(const std::string& text, const Json& parts) {
  for (const Json& part : parts) {
    if (text.find(part.get<std::string>()) != std::string::npos) return true;
  }
  return false;
}

// Leaves out the tokens whose spelling holds one of `parts`, and the merges that name them.
void remove_tokens(Json& model, const Json& parts) {
  Json vocab = Json::object(), merges = Json::array();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!holds_any(token, parts)) vocab[token] = id;
  }
  for (const Json& merge : model["merges"]) {
    if (!holds_any(merge[0].get<std::string>() + merge[1].get<std::string>(), parts)) merges.push_back(merge);
  }
  model["vocab"] = vocab;
  model["merges"] = merges;
}

void change_model(Json& model, const Json& changes) {
  for (const auto& [key, value] : changes.items()) {
    if (key == "without") {
      remove_tokens(model, value);
    } else if (key == "merges" && value.is_number()) {
      model["merges"].get_ref<Json::array_t&>().resize(value.get<size_t>());
    } else if (key == "merges") {
      for (Json& merge : model["merges"])
        merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    } else {
      model[key] = value;
    }
  }
}

TEST(TokenizerVariants, AllAsHuggingFace) {
  const Json base = read_json_file(testing::mini_dir() / "models" / "phi-mini" / "tokenizer.json");
  const Json golden = read_json_file(testing::source_dir() / "tests" / "golden" / "tokenizer_variants.json");
  ASSERT_EQ(golden["variants"].size(), 20u);
  for (const Json& variant : golden["variants"]) {
    const auto name = variant["name"].get<std::string>();
    SCOPED_TRACE(name);
    Json json = base;
    for (const auto& [key, value] : variant.items()) {
      if (key == "model") {
        change_model(json["model"], value);
      } else if (key != "name" && key != "cases") {
        json[key] = value;
      }
    }
    const Tokenizer tokenizer = Tokenizer::from_json(json, name);
    EXPECT_FALSE(variant["cases"].empty());
    for (const Json& test : variant["cases"]) {
      EXPECT_EQ(tokenizer.encode(test["text"].get<std::string>()), test["ids"].get<std::vector<int32_t>>())
          << test["text"];
    }
  }
}

}  // namespace
}  // namespace nibble
