#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "report/csv.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/synthetic_study.h"
#include "report/terminal.h"
#include "report/text_table.h"
#include "test_data.h"

namespace nibble::report {
namespace {

using ::testing::HasSubstr;
using testing::SyntheticStudy;
namespace fs = std::filesystem;

// Exactly tests/golden/report/NAME; NIBBLE_UPDATE_GOLDEN=1 writes it instead.
void expect_golden(const std::string& name, const std::string& text) {
  const fs::path path = nibble::testing::source_dir() / "tests" / "golden" / "report" / name;
  const char* update = std::getenv("NIBBLE_UPDATE_GOLDEN");
  if (update && std::string(update) == "1") {
    fs::create_directories(path.parent_path());
    write_file_atomically(path, text);
    return;
  }
  ASSERT_TRUE(fs::exists(path)) << path << " is missing; NIBBLE_UPDATE_GOLDEN=1 writes it";
  EXPECT_EQ(text, read_file(path));
}

// Two models: one with every kind of result, the other with failed, waiting and incomparable cells.
class ReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Store& store = study_.store();
    store.set_meta("version", "0.1.0");
    store.set_meta("cpu", "Example CPU");
    store.set_meta("isa", "avx2");
    store.set_meta("threads", "2");
    store.set_meta("seed", "0");
    store.set_meta("study_toml", "models = [\"alpha\", \"beta\"]\n");
    study_.add_healthy_model("alpha");
    add_beta(store);
  }

  static void add_beta(Store& store) {
    const Variant base = testing::baseline("beta"), gptq = testing::quantized("beta", "gptq", 64),
                  gsq = testing::quantized("beta", "gsq", 16);
    store.set_facts(base, testing::facts_of(base));
    VariantFacts facts = testing::facts_of(gptq);
    facts.quantization_report = {
        {"linears",
         {{{"name", "layers.0.w_q"}, {"fallback", ""}, {"reason", ""}},
          {{"name", "layers.1.w_down"}, {"fallback", "rtn"}, {"reason", "Hessian is singular"}},
          {{"name", "layers.2.w_up"}, {"fallback", ""}, {"reason", "3 of 64 inputs never active"}},
          {{"name", "layers.2.w_down"}, {"fallback", "rtn"}, {"reason", "Hessian is singular"}}}},
        {"warnings", {"few calibration tokens"}}};
    store.set_facts(gptq, facts);
    const std::string right = testing::eighty_right();
    store.save(testing::choice_cell(base, right));
    store.save(testing::choice_cell(gptq, testing::flipped(right, {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9})));
    Cell slow = testing::bench_cell(base, 400, 20);
    store.save(slow);
    slow = testing::bench_cell(gptq, 300, 18);
    slow.memory->workspace = 30 * testing::kMegabyte;
    slow.memory->peak_rss = 64 * testing::kMegabyte;
    store.save(slow);
    Cell failed;
    failed.variant = gsq;
    failed.task = "boolq";
    failed.status = CellStatus::kFailed;
    failed.reason = "cannot open, \"model.safetensors\" is not there";
    store.save(failed);
    Cell planned;
    planned.variant = base;
    planned.task = "wikitext";
    store.plan({planned});
    store.save(testing::perplexity_cell(gptq, 2.5));
  }

  SyntheticStudy study_;
};

TEST_F(ReportTest, Golden) {
  const Report report = make_report(study_.store());
  expect_golden("table1.md", render_markdown(report));
  expect_golden("results.csv", render_csv(report));
  expect_golden("table1.txt", render_table1_terminal(report));
}

TEST_F(ReportTest, GoldenOfAnEmptyStudy) {
  SyntheticStudy empty;
  expect_golden("empty.md", render_markdown(make_report(empty.store())));
}

TEST_F(ReportTest, TerminalKeepsToItsWidth) {
  const Report report = make_report(study_.store());
  for (const size_t width : {80, 104}) {
    std::istringstream lines(render_table1_terminal(report, width));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), width) << line;
  }
}

TEST_F(ReportTest, JsonHoldsTable1TheIssuesAndEveryCell) {
  const Json json = parse_json(render_json(make_report(study_.store())), "report.json");
  ASSERT_EQ(json["table1"].size(), 5u);
  const Json& row = json["table1"][3];
  EXPECT_EQ(row["model"], "beta");
  EXPECT_EQ(row["task"], "boolq");
  EXPECT_EQ(row["baseline"]["value"], 0.8);
  EXPECT_EQ(row["best"]["value"], 0.72);
  EXPECT_EQ(row["best_variant"]["method"], "gptq");
  EXPECT_EQ(row["difference"]["right_to_wrong"], 10);
  EXPECT_EQ(row["difference"]["significance"], "worse");
  EXPECT_EQ(json["table1"][4]["baseline"]["missing"], "not run yet");
  EXPECT_EQ(json["rules"].size(), 10u);
  const Json& gptq = json["variants"][4];
  EXPECT_EQ(gptq["file_bytes"], 5500000);
  EXPECT_EQ(gptq["fallbacks"][0]["reason"], "Hessian is singular");
  EXPECT_EQ(gptq["decode_tokens_per_s"]["value"], 18);
  EXPECT_EQ(gptq["cells"][0]["against_baseline"]["right_to_wrong"], 10);
}

TEST_F(ReportTest, JsonHoldsAChoiceForEachModel) {
  const Json choices = parse_json(render_json(make_report(study_.store())), "report.json")["recommendations"];
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(choices[0]["model"], "alpha");
  EXPECT_EQ(choices[0]["verdict"], "clear");
  EXPECT_EQ(choices[0]["choice"]["method"], "baseline");
  EXPECT_EQ(choices[0]["best_quantized"]["method"], "gsq");
  EXPECT_EQ(choices[1]["verdict"], "none");  // no configuration of it has every score
  EXPECT_TRUE(choices[1]["choice"].is_null());
  EXPECT_EQ(choices[1]["others"].size(), 3u);
}

TEST_F(ReportTest, WritesItsFilesWholeAndOverOlderOnes) {
  write_file_atomically(study_.dir() / "table1.md", "old");
  write_report(study_.store(), study_.dir());
  EXPECT_THAT(read_file(study_.dir() / "table1.md"), HasSubstr("# Results"));
  EXPECT_THAT(read_file(study_.dir() / "results.csv"), HasSubstr("model,method,"));
  EXPECT_NO_THROW(read_json_file(study_.dir() / "report.json"));
  for (const auto& entry : fs::directory_iterator(study_.dir())) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
  EXPECT_THROW(write_report(study_.store(), study_.dir() / "not there"), Error);
}

// A ratio that the bits rule out is not printed as a fact anywhere.
TEST_F(ReportTest, AnImpossibleCompressionIsFlagged) {
  const Variant gptq = testing::quantized("alpha", "gptq", 64);
  VariantFacts facts = testing::facts_of(gptq);
  facts.file_bytes = 3 * testing::kMegabyte;
  study_.store().set_facts(gptq, facts);
  const Report report = make_report(study_.store());
  EXPECT_THAT(render_markdown(report), HasSubstr("impossible (13.33× > 8.00×)"));
  EXPECT_THAT(render_csv(report), HasSubstr("compression_fp32,,,,,missing,impossible (13.33× > 8.00×)"));
}

TEST_F(ReportTest, TextOutOfTheStoreCannotBreakTheTables) {
  Cell cell;
  cell.variant = testing::baseline("a|b\nc");
  cell.task = "boolq";
  cell.status = CellStatus::kFailed;
  cell.reason = "x | y\n\x1b[2J";
  study_.store().save(cell);
  const Report report = make_report(study_.store());
  EXPECT_THAT(render_markdown(report), HasSubstr("missing (x \\| y  [2J)"));
  EXPECT_EQ(render_table1_terminal(report).find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace nibble::report
