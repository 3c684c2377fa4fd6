// A base and a fine-tuned model side by side, on results known beforehand.
#include "report/finetuning.h"

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

class FineTuned : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string right = testing::eighty_right();
    // The base loses rows 0 and 1 of 100 and wins row 8; the fine-tuned model loses 0, 1 and 10 to 12.
    add("alpha", right, testing::flipped(right, {0, 1, 8}), {0.02, 0.01, 0.03});
    add("tuned", right, testing::flipped(right, {0, 1, 10, 11, 12}), {0.05, 0.06, 0.03});
  }
  void add(const std::string& model, const std::string& before, const std::string& after,
           const std::vector<double>& errors) {
    const Variant base = testing::baseline(model), gptq = testing::quantized(model, "gptq", 64);
    study_.store().set_facts(base, testing::facts_of(base));
    VariantFacts facts = testing::facts_of(gptq);
    Json linears = Json::array();
    for (size_t i = 0; i < errors.size(); ++i)
      linears.push_back({{"name", fmt::format("linear {}", i)}, {"error", errors[i]}});
    facts.quantization_report = {{"linears", linears}};
    study_.store().set_facts(gptq, facts);
    study_.store().save(testing::choice_cell(base, before));
    study_.store().save(testing::choice_cell(gptq, after));
    study_.store().save(testing::perplexity_cell(base, 2.0));
    study_.store().save(testing::perplexity_cell(gptq, model == "alpha" ? 2.05 : 2.2, 0.01));
  }
  testing::SyntheticStudy study_;
};

TEST_F(FineTuned, NothingIsSaidWhereNoPairIsNamed) {
  const Report report = make_report(study_.store());
  EXPECT_EQ(render_fine_tuned(report.finetuned), "");
  EXPECT_EQ(parse_json(render_json(report), "report.json")["finetuned"], Json::array());
  EXPECT_EQ(parse_json(page_data(report), "page data")["finetuned"], Json::array());
  EXPECT_THAT(render_csv(report), Not(HasSubstr("finetuning.")));
}

TEST_F(FineTuned, LossesAreHeldAgainstEachOtherRowByRow) {
  study_.store().set_meta("finetuned", R"([{"model":"tuned","base":"alpha"}])");
  const StudyView study = load_study(study_.store());
  const auto pairs = fine_tuned_pairs(study);
  ASSERT_EQ(pairs.size(), 1u);
  ASSERT_EQ(pairs[0].variants.size(), 1u);
  const FineTunedVariant& gptq = pairs[0].variants[0];
  EXPECT_EQ(gptq.base->label(), "gptq g64");
  EXPECT_EQ(gptq.tuned->variant.model, "tuned");
  ASSERT_EQ(gptq.measures.size(), 3u);
  const FineTunedMeasure& boolq = gptq.measures[0];
  ASSERT_EQ(boolq.missing, "");
  EXPECT_NEAR(boolq.base, -0.01, 1e-12);
  EXPECT_NEAR(boolq.tuned, -0.05, 1e-12);
  EXPECT_NEAR(boolq.difference, -0.04, 1e-12);
  // Four rows of 100 differ by −1: the common losses cancel out.
  EXPECT_NEAR(boolq.error, std::sqrt((4 - 100 * 0.04 * 0.04) / 99 / 100), 1e-9);
  const FineTunedMeasure& wikitext = gptq.measures[1];
  EXPECT_TRUE(wikitext.is_ratio);
  EXPECT_NEAR(wikitext.base, 0.05, 1e-9);
  EXPECT_NEAR(wikitext.difference, 0.15, 1e-9);
  EXPECT_NEAR(wikitext.error, 0, 1e-9);
  EXPECT_EQ(gptq.measures[2].missing, "base: not measured");
  ASSERT_EQ(gptq.layers.size(), 2u);  // the third did not grow
  EXPECT_EQ(gptq.layers[0].name, "linear 1");
  const std::string text = render_fine_tuned(pairs);
  EXPECT_THAT(text, HasSubstr("### tuned, fine-tuned from alpha"));
  EXPECT_THAT(text, HasSubstr("6.00"));
  EXPECT_THAT(render_markdown(make_report(study_.store())), HasSubstr(text));
}

// JSON, CSV and the page say what table1.md says.
TEST_F(FineTuned, EveryFormHasTheSameNumbers) {
  study_.store().set_meta("finetuned", R"([{"model":"tuned","base":"alpha"}])");
  for (const auto& [model, kl] : {std::pair{"alpha", 0.02}, std::pair{"tuned", 0.05}}) {
    Cell cell = testing::done_cell(testing::quantized(model, "gptq", 64), "kl");
    cell.distance = {{"kl", {{"mean", kl}, {"stderr", 0.003}}}, {"top1_agreement", 0.9}, {"tokens", 510}};
    study_.store().save(cell);
  }
  for (const Variant& v : {testing::baseline("alpha"), testing::quantized("alpha", "gptq", 64)})
    study_.store().save(testing::choice_cell(v, testing::eighty_right(), "arc"));
  const Report report = make_report(study_.store());
  const FineTunedVariant& gptq = report.finetuned.at(0).variants.at(0);
  ASSERT_EQ(gptq.measures.size(), 4u);
  const FineTunedMeasure &boolq = gptq.measures[0], &arc = gptq.measures[2], &kl = gptq.measures[3];
  ASSERT_EQ(boolq.name, "boolq");
  ASSERT_EQ(arc.name, "arc");
  EXPECT_EQ(arc.missing, "fine-tuned: not in the plan");
  ASSERT_EQ(kl.missing, "");
  EXPECT_NEAR(kl.difference, 0.03, 1e-12);
  EXPECT_NEAR(kl.error, std::hypot(0.003, 0.003), 1e-6);

  const Json pair = parse_json(render_json(report), "report.json")["finetuned"][0];
  EXPECT_EQ(pair["model"], "tuned");
  EXPECT_EQ(pair["base"], "alpha");
  const Json &variant = pair["variants"][0], &measures = variant["measures"];
  EXPECT_EQ(variant["method"], "gptq");
  EXPECT_EQ(variant["group_size"], 64);
  EXPECT_EQ(measures[0]["scale"], "share");
  EXPECT_EQ(measures[0]["base"], boolq.base);
  EXPECT_EQ(measures[0]["finetuned"], boolq.tuned);
  EXPECT_EQ(measures[0]["difference"], boolq.difference);
  EXPECT_EQ(measures[0]["stderr"], boolq.error);
  EXPECT_EQ(measures[2]["missing"], arc.missing);
  EXPECT_EQ(measures[3]["difference"], kl.difference);
  EXPECT_EQ(variant["layers"][0]["name"], "linear 1");
  EXPECT_EQ(variant["layers"][0]["growth"], 0.06 / 0.01);

  const std::string csv = render_csv(report);
  EXPECT_THAT(csv,
              HasSubstr(fmt::format("tuned,gptq,4,64,boolq,validation,0,0,100,finetuning.boolq.difference,"
                                    "{},,,,done,",
                                    boolq.difference)));
  EXPECT_THAT(csv, HasSubstr(fmt::format("finetuning.boolq.stderr,{},", boolq.error)));
  EXPECT_THAT(csv, HasSubstr(fmt::format("finetuning.KL.finetuned,{},", kl.tuned)));
  EXPECT_THAT(csv, HasSubstr("finetuning.arc.difference,,,,,missing,fine-tuned: not in the plan"));
  EXPECT_THAT(csv, HasSubstr("tuned,gptq,4,64,,,,,,finetuning.linear 1.error.finetuned,0.06,"));

  const Json page = parse_json(page_data(report), "page data")["finetuned"][0];
  EXPECT_EQ(page["model"], "tuned");
  const TextTable table = measures_table(report.finetuned[0]);
  for (size_t row = 0; row < table.rows.size(); ++row) {
    for (size_t i = 0; i < table.heads.size(); ++i)
      EXPECT_EQ(page["measures"]["rows"][row][i][0], table.rows[row][i]);
  }
  EXPECT_EQ(page["measures"]["rows"][0][4], Json({table.rows[0][4], boolq.difference}));
  EXPECT_EQ(page["measures"]["rows"][2][4].size(), 1u);  // missing: no number
  EXPECT_EQ(page["layers"]["rows"][0][4], Json({"6.00", 0.06 / 0.01}));
}

// Other rows are no pair.
TEST_F(FineTuned, OtherRowsAreNotCompared) {
  study_.store().set_meta("finetuned", R"([{"model":"tuned","base":"alpha"}])");
  const std::string shorter = testing::eighty_right().substr(0, 50);
  study_.store().save(testing::choice_cell(testing::baseline("tuned"), shorter));
  study_.store().save(testing::choice_cell(testing::quantized("tuned", "gptq", 64), shorter));
  EXPECT_EQ(fine_tuned_pairs(load_study(study_.store()))[0].variants[0].measures[0].missing,
            "the two models were not asked the same rows");
}

}  // namespace
}  // namespace nibble::report
