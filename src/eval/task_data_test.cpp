#include "eval/task_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "fake_language_model.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

TEST(TaskData, FindsTheMiniLayout) {
  const auto dir = testing::mini_dir() / "data";
  EXPECT_EQ(open_task_file(dir, "boolq", "validation").path.filename(), "boolq.validation.jsonl");
  EXPECT_EQ(open_task_file(dir, "gsm8k", "train").path.filename(), "gsm8k.train.jsonl");
  EXPECT_EQ(open_task_file(dir, "wikitext", "test").path.filename(), "wikitext.test.txt");
}

TEST(TaskData, FindsThePublicLayout) {
  const auto dir = testing::shared_dir() / "data";
  NIBBLE_NEEDS(dir / "boolq" / "dev.jsonl");
  EXPECT_EQ(open_task_file(dir, "boolq", "validation").path, dir / "boolq/dev.jsonl");
  EXPECT_EQ(open_task_file(dir, "boolq", "train").path, dir / "boolq/train32.jsonl");
  EXPECT_EQ(open_task_file(dir, "gsm8k", "test").path, dir / "gsm8k/test.jsonl");
  EXPECT_EQ(open_task_file(dir, "msmarco", "validation").path, dir / "msmarco/v1.1_sample.jsonl");
  EXPECT_EQ(open_task_file(dir, "msmarco", "trec_dl19_judged").path, dir / "msmarco/trec_dl19_judged.jsonl");
  EXPECT_EQ(open_task_file(dir, "wikitext", "test").path, dir / "wikitext2/wiki.test.raw");
  EXPECT_EQ(open_task_file(dir, "wikitext", "validation").path, dir / "wikitext2/wiki.valid.raw");
}

TEST(TaskData, HashIsThatOfTheFile) {
  testing::TemporaryDir dir;
  dir.write("boolq/dev.jsonl", "abc");
  EXPECT_EQ(open_task_file(dir.path(), "boolq", "validation").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(TaskData, SaysWhatItLookedFor) {
  testing::TemporaryDir dir;
  const std::string message = error_of([&] { open_task_file(dir.path(), "boolq", "validation"); });
  for (const char* part :
       {"boolq.validation.jsonl", "boolq/dev.jsonl", "boolq/validation.jsonl", dir.path().c_str()}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(error_of([&] { open_task_file(dir.path() / "none", "boolq", "test"); }),
              HasSubstr("no such data directory"));
}

TEST(TaskData, SplitNames) {
  EXPECT_EQ(canonical_split("", "test"), "test");
  EXPECT_EQ(canonical_split("dev", "test"), "validation");
  EXPECT_EQ(canonical_split("train", "test"), "train");
}

TEST(TaskData, RowsKnowTheirLine) {
  const DataFile file{"x.jsonl", "{\"a\":1}\n\n  \r\n{\"a\":2}\n{\"a\":3}", ""};
  std::vector<std::string> where;
  for_each_row(file, [&](DataRow&& row) {
    where.push_back(row.where);
    return row.json["a"] != 2;
  });
  EXPECT_THAT(where, ElementsAre("x.jsonl line 1", "x.jsonl line 4"));
  const auto keep = [](DataRow&&) { return true; };
  EXPECT_THAT(error_of([&] {
                for_each_row({"y", "{}\n[1]\n", ""}, keep);
              }),
              HasSubstr("y line 2: not a JSON object"));
  EXPECT_THAT(error_of([&] { for_each_row({"y", "{}\n{\"a\":\n", ""}, keep); }), HasSubstr("y line 2"));
}

TaskOptions split_options(const testing::TemporaryDir& dir, const char* split, int64_t limit = 0) {
  TaskOptions options;
  options.data_dir = dir.path();
  options.split = split;
  options.limit = limit;
  return options;
}

TEST(TaskData, MixedIsTestThenTrainAndSaysSo) {
  testing::TemporaryDir dir;
  dir.write("gsm8k.test.jsonl", "{\"i\":0}\n{\"i\":1}\n");
  dir.write("gsm8k.train.jsonl", "{\"i\":2}\n{\"i\":3}\n{\"i\":4}\n");
  const TaskRows mixed = load_rows(find_task("gsm8k"), split_options(dir, "mixed", 4), 0);
  EXPECT_EQ(mixed.split, "mixed (contaminated)");
  ASSERT_EQ(mixed.rows.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(mixed.rows[i].json["i"], i);
  EXPECT_EQ(mixed.rows[1].train_index, -1);
  EXPECT_EQ(mixed.rows[3].train_index, 1);
  EXPECT_EQ(mixed.sha256.size(), 129u);  // two hashes and a '+'

  const TaskRows train = load_rows(find_task("gsm8k"), split_options(dir, "train"), 1);
  EXPECT_EQ(train.split, "train");
  EXPECT_EQ(train.rows[2].train_index, 2);
  EXPECT_EQ(train.train.size(), 3u);
  EXPECT_EQ(train.sha256.size(), 64u);

  dir.write("gsm8k.test.jsonl", "\n");
  EXPECT_THAT(error_of([&] { load_rows(find_task("gsm8k"), split_options(dir, "test"), 0); }),
              HasSubstr("no rows"));
}

TEST(TaskData, ExamplesAreDistinctSeededAndNeverExcluded) {
  const auto odd = [](size_t t) { return t % 2 == 1; };
  std::set<size_t> seen;
  for (uint64_t row = 0; row < 200; ++row) {
    Random random = row_random(7, row), again = row_random(7, row);
    const auto drawn = draw_examples(20, 5, random, odd, "x");
    EXPECT_EQ(std::set(drawn.begin(), drawn.end()).size(), 5u);
    for (const size_t t : drawn) EXPECT_EQ(t % 2, 0u);
    EXPECT_EQ(drawn, draw_examples(20, 5, again, odd, "x"));
    seen.insert(drawn.begin(), drawn.end());
  }
  EXPECT_EQ(seen.size(), 10u);  // every allowed row turns up
  Random a = row_random(7, 1), b = row_random(8, 0), c = row_random(7, 0);
  const auto none = [](size_t) { return false; };
  const auto first = draw_examples(1000, 5, a, none, "x");
  EXPECT_NE(first, draw_examples(1000, 5, b, none, "x"));
  EXPECT_NE(first, draw_examples(1000, 5, c, none, "x"));
  EXPECT_THAT(error_of([&] { draw_examples(8, 5, a, odd, "f line 3"); }), HasSubstr("f line 3: 5 examples"));
}

}  // namespace
}  // namespace nibble
