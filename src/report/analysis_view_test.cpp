#include "report/analysis_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "report/csv.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/page.h"
#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::SyntheticStudy;

Json page_model(const Store& store) {
  return parse_json(page_data(make_report(store)), "page data")["models"][0];
}

TEST(AnalysisView, ReadsWhatAnalyzeWrites) {
  const AnalysisView a = read_analysis(testing::analysis_of("abc", 3), "F.json");
  EXPECT_EQ(a.probe_text(), "4-bit g64, with zero points");
  ASSERT_EQ(a.choices.size(), 4u);
  EXPECT_EQ(a.choices[1].label(), "2-bit g64");
  EXPECT_EQ(a.choices[2].key(), "b4.g16");
  ASSERT_EQ(a.linears.size(), 12u);
  EXPECT_EQ(a.linears[5].name, "model.layers.1.self_attn.o_proj");
  EXPECT_DOUBLE_EQ(a.linears[5].kl, 0.004);
  EXPECT_DOUBLE_EQ(a.linears[5].errors[3], 0.016);  // 0.001 · 2 · 64/16 · 2
  ASSERT_EQ(a.layers.size(), 3u);
  EXPECT_DOUBLE_EQ(a.layers[2].kl[1], 0.06);
  const AnalysisView without = read_analysis(testing::analysis_of("abc", 3, false), "F.json");
  EXPECT_FALSE(without.has_kl());
  EXPECT_TRUE(std::isnan(without.linears[0].kl));
  EXPECT_TRUE(without.layers.empty());
}

TEST(AnalysisView, WhatIsNotThereOrDamagedIsMissing) {
  EXPECT_EQ(stored_analysis("alpha", nullptr).missing,
            "not analysed; nibble analyze alpha --study DIR does it");
  const Json whole = testing::analysis_of("abc", 2);
  ASSERT_TRUE(stored_analysis("alpha", whole).view);
  for (const char* key :
       {"probe", "symmetric", "tokens", "kl_positions", "group_sizes", "bits", "linears", "layers"}) {
    for (const Json& wrong : {Json(), Json("no"), Json::array({1, "x"})}) {
      Json damaged = whole;
      damaged[key] = wrong;
      const StoredAnalysis stored = stored_analysis("alpha", damaged);
      EXPECT_FALSE(stored.view) << key << wrong;
      EXPECT_THAT(stored.missing, HasSubstr("the stored analysis")) << key << wrong;
    }
  }
  Json damaged = whole;
  damaged["linears"][3]["errors"].erase("2");
  EXPECT_THAT(stored_analysis("alpha", damaged).missing, HasSubstr("'2' is missing"));
}

TEST(AnalysisView, EveryFormOfTheReportHasIt) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  study.store().set_analysis("alpha", testing::analysis_of("abc", 2));
  const Report report = make_report(study.store());

  const Json page = page_model(study.store())["analysis"];
  EXPECT_EQ(page["probe"], "4-bit g64, with zero points");
  EXPECT_EQ(page["choices"], Json({"2-bit g16", "2-bit g64", "4-bit g16", "4-bit g64"}));
  EXPECT_EQ(page["linears"]["kl"], Json({0.001, 0.002, 0.003, 0.004, 0.002, 0.004, 0.006, 0.008}));
  EXPECT_EQ(page["linears"]["errors"][3][4], 0.008);
  EXPECT_EQ(page["layers"][1], Json({"4-bit g64", {{0, 0.02}, {1, 0.04}}}));

  const Json json = parse_json(render_json(report), "report.json")["analyses"][0];
  EXPECT_EQ(json["model"], "alpha");
  EXPECT_EQ(json["linears"][7]["kl"], 0.008);
  EXPECT_EQ(json["linears"][4]["errors"]["4"]["64"], 0.008);
  EXPECT_EQ(json["layers"][1]["kl"]["16"], 0.02);

  const std::string csv = render_csv(report);
  EXPECT_THAT(
      csv, HasSubstr(
               "alpha,baseline,16,0,,,,,,analysis.model.layers.1.mlp.down_proj.kl.b4.g64,0.008,,,,done,,\n"));
  EXPECT_THAT(csv, HasSubstr("analysis.model.layers.0.self_attn.q_proj.error.b2.g16,0.004,"));
  EXPECT_THAT(csv, HasSubstr("analysis.layer.1.kl.b4.g16,0.02,"));

  const std::string markdown = render_markdown(report);
  EXPECT_THAT(markdown, HasSubstr("## Sensitivity of the layers"));
  const size_t worst = markdown.find("| model.layers.1.mlp.down_proj"),
               next = markdown.find("| model.layers.1.mlp.up_proj");
  EXPECT_LT(worst, next);
  EXPECT_NE(next, std::string::npos);
  EXPECT_THAT(markdown, HasSubstr("8.00e-03"));
}

TEST(AnalysisView, WithoutKlTheErrorsAreShownAndNoKlIsMadeUp) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  study.store().set_analysis("alpha", testing::analysis_of("abc", 2, false));
  const Report report = make_report(study.store());
  const Json page = page_model(study.store())["analysis"];
  EXPECT_FALSE(page["linears"].contains("kl"));
  EXPECT_TRUE(page["layers"].empty());
  EXPECT_EQ(page["linears"]["errors"].size(), 4u);
  EXPECT_THAT(render_csv(report), Not(HasSubstr("analysis.model.layers.0.self_attn.q_proj.kl")));
  EXPECT_TRUE(parse_json(render_json(report), "report.json")["analyses"][0]["linears"][0]["kl"].is_null());
  EXPECT_THAT(render_markdown(report), HasSubstr("Error 2-bit g16"));
}

TEST(AnalysisView, OfAStudyWithoutOneEveryFormSaysSo) {
  SyntheticStudy study;
  study.add_healthy_model("alpha");
  const Report report = make_report(study.store());
  EXPECT_THAT(page_model(study.store())["analysis"]["missing"], HasSubstr("nibble analyze alpha"));
  EXPECT_THAT(parse_json(render_json(report), "report.json")["analyses"][0]["missing"].get<std::string>(),
              HasSubstr("not analysed"));
  EXPECT_THAT(render_markdown(report), Not(HasSubstr("Sensitivity of the layers")));
}

}  // namespace
}  // namespace nibble::report
