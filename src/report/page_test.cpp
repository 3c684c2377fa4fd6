#include "report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "base/file.h"
#include "report/csv.h"
#include "report/json.h"
#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::SyntheticStudy;

constexpr const char* kHostile = "</script><script>alert(1)</script><!--";

Json data_of(const Report& report, const PageOptions& options = {}) {
  return parse_json(page_data(report, options), "page data");
}

size_t count(const std::string& text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Page, HoldsItsPartsAndAsksForNothing) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  const std::string page = render_page(make_report(study.store()));
  EXPECT_THAT(page, HasSubstr("Chart.js v"));
  EXPECT_THAT(page, HasSubstr("Released under the MIT License"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(page, HasSubstr("function drawAll()"));
  EXPECT_EQ(page.find("{{"), page.find("{{data}}"));  // every mark is filled in (Chart.js may hold "{{")
  for (const char* outside : {"src=\"http", "src='http", "@import", "url(http"})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
}

// Stored text stands in the JSON block alone, where it cannot end the element.
TEST(Page, StoredTextCannotLeaveTheDataBlock) {
  SyntheticStudy study;
  const Variant base = testing::baseline(kHostile), gptq = testing::quantized(kHostile, "gptq", 64);
  Cell before = testing::choice_cell(base, testing::eighty_right());
  Cell after = testing::choice_cell(gptq, testing::flipped(testing::eighty_right(), {0, 1, 8}));
  for (Cell* cell : {&before, &after}) {
    for (Sample& s : cell->result->samples) s.prompt = s.gold = kHostile;
    study.store().save(*cell);
  }
  after.task = "gsm8k";
  after.status = CellStatus::kFailed;
  after.result.reset();
  after.reason = kHostile;
  study.store().save(after);
  study.store().set_meta("study_toml", kHostile);
  const Report report = make_report(study.store());
  const std::string page = render_page(report), data = page_data(report);
  EXPECT_EQ(data.find('<'), std::string::npos);
  EXPECT_EQ(page.find("alert(1)</script>"), std::string::npos);
  EXPECT_EQ(count(page, "</script>"), 3u);
  const Json json = parse_json(data, "page data");
  EXPECT_EQ(json["models"][0]["name"], kHostile);
  EXPECT_EQ(json["answers"][0]["shown"][0]["prompt"], kHostile);
  EXPECT_EQ(json["study_toml"], kHostile);
}

TEST(Page, DataAreTheStoredOnes) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  const Variant gptq = testing::quantized("alpha", "gptq", 64);
  VariantFacts facts = testing::facts_of(gptq);
  facts.parts = {{"body", {{"parameters", 8000000}, {"bytes", 4500000}}}};
  facts.quantization_report = {
      {"linears",
       {{{"name", "model.layers.0.mlp.up_proj"}, {"bits", 4}, {"error", 0.00123456}, {"rtn_error", 0.005}},
        {{"name", "model.layers.1.mlp.up_proj"}, {"bits", 4}, {"error", 0.002}, {"rtn_error", 0.005}}}}};
  study.store().set_facts(gptq, facts);
  Cell kl = testing::done_cell(gptq, "kl");
  kl.distance = {{"kl", {{"mean", 0.02}, {"stderr", 0.001}}}, {"top1_agreement", 0.9}, {"tokens", 510}};
  study.store().save(kl);
  const Json json = data_of(make_report(study.store()));
  EXPECT_EQ(json["tasks"], Json({"boolq", "gsm8k", "wikitext"}));
  const Json& variant = json["models"][0]["variants"][1];
  EXPECT_EQ(variant["label"], "gptq g64");
  EXPECT_EQ(variant["parts"]["body"]["bytes"], 4500000);
  EXPECT_NEAR(variant["kl"][2].get<double>(), 0.02196, 1e-5);
  EXPECT_EQ(variant["quantization"]["linears"]["error"], Json({0.001235, 0.002}));
  EXPECT_EQ(variant["quantization"]["linears"]["bits"]["all"], 4);
  const Json& boolq = variant["cells"][0];
  EXPECT_EQ(boolq["difference"]["lost"], 3);
  EXPECT_EQ(boolq["difference"]["won"], 1);
  EXPECT_EQ(boolq["memory"]["other"], 23000000);
  EXPECT_EQ(boolq["latency"]["response"]["p95"], 15.25);
  EXPECT_EQ(json["table1"].size(), 3u);
  EXPECT_EQ(json["rules"].size(), 10u);
  EXPECT_EQ(json["live"], false);
  EXPECT_EQ(data_of(make_report(study.store()), {.live = true})["live"], true);
}

// What the charts draw stands in results.csv and report.json too.
TEST(Page, TheOtherFormsHaveTheSameNumbers) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  const Variant gptq = testing::quantized("alpha", "gptq", 64);
  VariantFacts facts = testing::facts_of(gptq);
  facts.parts = {{"body", {{"parameters", 8000000}, {"bytes", 4500000}}}};
  facts.quantization_report = {
      {"linears", {{{"name", "model.layers.0.mlp.up_proj"}, {"error", 0.00123456}, {"rtn_error", 0.005}}}}};
  study.store().set_facts(gptq, facts);
  const Report report = make_report(study.store());
  const std::string csv = render_csv(report);
  EXPECT_THAT(csv, HasSubstr("alpha,gptq,4,64,,,,,,parts.body.bytes,4500000,,,,done,"));
  EXPECT_THAT(csv, HasSubstr("quantization.model.layers.0.mlp.up_proj.error,0.00123456,"));
  EXPECT_THAT(csv,
              HasSubstr("alpha,gptq,4,64,boolq,validation,0,0,100,memory_other_bytes,23000000,,,,done,"));
  const Json variant = parse_json(render_json(report), "report.json")["variants"][1];
  EXPECT_EQ(variant["parts"], facts.parts);
  EXPECT_EQ(variant["quantization_report"], facts.quantization_report);
}

// One rule of choice: the page's is `nibble recommend --model`, without limits.
TEST(Page, ChoosesByTheRuleOfRecommend) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  const auto choice = [&] {
    const Report report = make_report(study.store());
    Specification spec;
    spec.models = {"alpha"};
    const Recommendation r = recommend(report.study, report.issues, spec);
    const Json json = data_of(report)["choices"][0], model = data_of(report)["models"][0];
    EXPECT_EQ(json["verdict"], verdict_name(r));
    EXPECT_EQ(
        fmt::format("alpha {}", model["variants"][json["variant"].get<size_t>()]["label"].get<std::string>()),
        r.candidates[r.choice.value()].label());
    EXPECT_EQ(json["others"].size(), 2u);
    return json;
  };
  // Both quantized ones lose 3 % of perplexity.
  Json json = choice();
  EXPECT_EQ(json["variant"], 0);
  EXPECT_EQ(json["quantized"], 2);
  EXPECT_THAT(json["others"][0][2].get<std::string>(), HasSubstr("worse on wikitext: ×1.03"));
  study.store().save(testing::perplexity_cell(testing::quantized("alpha", "gsq", 64), 1.501, 0.001));
  json = choice();
  EXPECT_EQ(json["variant"], 2);
  EXPECT_TRUE(json["quantized"].is_null());
  EXPECT_EQ(json["lines"][0][0], "Quality");
}

TEST(Page, AnEmptyStudyIsAPage) {
  SyntheticStudy study;
  const Json json = data_of(make_report(study.store()));
  EXPECT_TRUE(json["models"].empty());
  EXPECT_EQ(json["progress"], "0 of 0 cells measured");
  EXPECT_TRUE(json["choices"].empty());
}

// 3 models × 4 methods × 4 group sizes × 4 tasks of 100 rows, long prompts, 200 linears a variant, analysed.
TEST(Page, ALargeStudyRendersWithinASecondAndTwoMegabytes) {
  SyntheticStudy study;
  const std::string right = testing::eighty_right();
  Json linears = Json::array();
  for (int i = 0; i < 200; ++i) {
    linears.push_back({{"name", fmt::format("model.layers.{}.self_attn.q_proj", i)},
                       {"shape", {576, 576}},
                       {"error", 1e-4 * (1 + i)},
                       {"rtn_error", 3e-4 * (1 + i)},
                       {"bits", 4},
                       {"seconds", 0.01 * i},
                       {"fallback", ""},
                       {"reason", ""}});
  }
  size_t flip = 0;
  const auto save = [&](Cell cell) {
    for (Sample& s : cell.result->samples) s.prompt += std::string(1500, 'x');
    study.store().save(cell);
  };
  for (const char* model : {"alpha", "beta", "gamma"}) {
    std::vector<Variant> variants{testing::baseline(model)};
    for (const char* method : {"awq", "gptq", "gsq", "rtn"})
      for (const int group : {16, 32, 64, 128}) variants.push_back(testing::quantized(model, method, group));
    for (const Variant& v : variants) {
      VariantFacts facts = testing::facts_of(v);
      if (!v.is_baseline()) facts.quantization_report = {{"linears", linears}};
      study.store().set_facts(v, facts);
      const bool base = v.is_baseline();
      flip = (flip + 17) % 80;
      const auto some = base ? std::vector<size_t>{} : std::vector<size_t>{flip, flip + 3, flip + 11};
      save(testing::choice_cell(v, testing::flipped(right, some)));
      save(testing::choice_cell(v, testing::flipped(right, some), "msmarco"));
      save(testing::math_cell(
          v, std::string(60 - (base ? 0 : flip % 7), 'r') + std::string(40 + (base ? 0 : flip % 7), 'w')));
      save(testing::perplexity_cell(v, base ? 1.5 : 1.52, 0.01));
      study.store().save(testing::bench_cell(v, 400, 20));
    }
    study.store().set_analysis(model, testing::analysis_of("any", 50));
  }
  const std::clock_t begin = std::clock();  // of this process: other work on the machine does not count
  const std::string page = render_page(make_report(study.store()));
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  RecordProperty("seconds", fmt::format("{:.3f}", seconds));
  RecordProperty("bytes", fmt::format("{}", page.size()));
  EXPECT_LT(seconds, 1.0);
  EXPECT_LT(page.size(), 2000000u);
  EXPECT_EQ(data_of(make_report(study.store()))["models"][2]["variants"].size(), 17u);
}

}  // namespace
}  // namespace nibble::report
