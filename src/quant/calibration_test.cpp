// What may be calibrated with, and in which form.
#include "quant/calibration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "model/model.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

TEST(Calibration, RefusesTestSplitsByTheirContent) {
  const Tokenizer tokenizer = load_model(testing::mini_dir() / "models" / "llama-mini")->load_tokenizer();
  const fs::path data = testing::mini_dir() / "data";
  const fs::path copy = fs::temp_directory_path() / fmt::format("nibble-training-{}.jsonl", ::getpid());
  fs::copy_file(data / "gsm8k.test.jsonl", copy, fs::copy_options::overwrite_existing);
  for (const fs::path& file : {data / "gsm8k.test.jsonl", data / "boolq.validation.jsonl",
                               data / "msmarco.validation.jsonl", data / "wikitext.test.txt", copy})
    EXPECT_THROW(load_calibration({.files = {file}, .samples = 1}, tokenizer), UsageError) << file;
  fs::remove(copy);
  for (const fs::path& file : bundled_calibration(data))
    EXPECT_EQ(load_calibration({.files = {file}, .samples = 1, .seqlen = 64}, tokenizer).samples.size(), 1u);
}

TEST(Calibration, RowsOfATaskTakeItsPromptForm) {
  const fs::path file = fs::temp_directory_path() / fmt::format("nibble-rows-{}.jsonl", ::getpid());
  write_file_atomically(file, R"({"question": "What is 1 + 1?", "answer": "2"})"
                              "\n"
                              R"({"question": "And 2 + 2?", "answer": "4"})"
                              "\n");
  EXPECT_EQ(prompt_text(file), "Question: What is 1 + 1?\nAnswer: 2\n\nQuestion: And 2 + 2?\nAnswer: 4\n\n");
  fs::remove(file);
}

}  // namespace
}  // namespace nibble
