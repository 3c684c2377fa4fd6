#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "eval/msmarco_data.h"
#include "eval/task.h"
#include "fake_language_model.h"

namespace nibble {
namespace {

using testing::error_of;
using testing::FakeLanguageModel;
using ::testing::HasSubstr;
using testing::TemporaryDir;

// Query a: passage 1 answers; query b: nothing selected; query c: passages 0 and 3 answer.
constexpr const char* kQa =
    R"({"query": "qa", "query_id": 1, "passages": {"is_selected": [0, 1, 0], "passage_text": ["a0", "a1", "a2"]}, "answers": []}
{"query": "qb", "query_id": 2, "passages": {"is_selected": [0, 0], "passage_text": ["b0", "b1"]}, "answers": []}
{"query": "qc", "query_id": 3, "passages": {"is_selected": [1, 0, 0, 1], "passage_text": ["c0", "c1", "c2", "c3"]}, "answers": []}
)";

TaskOptions msmarco_options(const TemporaryDir& dir) {
  TaskOptions options;
  options.data_dir = dir.path();
  return options;
}

std::string passage_of(const std::string& context) {
  const size_t at = context.rfind("Passage: ") + 9;
  return context.substr(at, context.find('\n', at) - at);
}

// A model that answers by log p(Yes) − log p(No) = score(passage).
void set_scores(FakeLanguageModel& model, std::function<double(const std::string&)> score) {
  model.loglik_of = [score](const std::string& context, const std::string& choice) {
    return choice == " Yes" ? -1 + score(passage_of(context)) : -1.0;
  };
}

TEST(MsMarco, PromptAndChoices) {
  TemporaryDir dir;
  dir.write("msmarco.validation.jsonl", kQa);
  FakeLanguageModel model;
  const TaskResult r = run_task("msmarco", model, msmarco_options(dir), {});
  ASSERT_EQ(model.loglik_requests.size(), 18u);  // nine passages, two choices
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[0].context),
            "Passage: a0\nQuery: qa\nDoes the passage answer the query?\nAnswer:");
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[0].continuation), " No");
  EXPECT_EQ(model.tokenizer().decode(model.loglik_requests[1].continuation), " Yes");
  EXPECT_EQ(r.rows, 4);
}

TEST(MsMarco, PairsAreBalancedAndClusterByQuery) {
  TemporaryDir dir;
  dir.write("msmarco.validation.jsonl", kQa);
  FakeLanguageModel model;
  // a1 right, everything else of a wrong ("Yes"); c all "No".
  set_scores(model, [](const std::string& p) { return p[0] == 'a' ? 1 + (p == "a1") : -1.0; });
  const TaskResult r = run_task("msmarco", model, msmarco_options(dir), {});
  ASSERT_EQ(r.samples.size(), 4u);
  EXPECT_EQ(r.samples[0].key, "0/1");
  EXPECT_EQ(r.samples[0].cluster, "0");
  EXPECT_EQ(r.samples[0].gold, "Yes");
  EXPECT_EQ(r.samples[0].prediction, "Yes");
  EXPECT_EQ(r.samples[1].gold, "No");
  EXPECT_EQ(r.samples[2].cluster, "2");
  EXPECT_EQ(r.samples[2].prediction, "No");
  EXPECT_EQ(r.samples[2].score, 0);
  EXPECT_EQ(r.samples[3].score, 1);
  EXPECT_DOUBLE_EQ(r.metrics.at("accuracy").value, 0.5);
  EXPECT_EQ(r.metrics.at("accuracy").stderr_, 0);  // one right, one wrong in every cluster
  EXPECT_DOUBLE_EQ(r.metrics.at("all_passages_accuracy").value, 5.0 / 9);  // a1; b0, b1; c1, c2
  EXPECT_DOUBLE_EQ(r.checks.at("always_no_accuracy"), 6.0 / 9);
  EXPECT_DOUBLE_EQ(r.checks.at("answer_share_no_all"), 6.0 / 9);
  EXPECT_DOUBLE_EQ(r.checks.at("label_share_yes"), 0.5);
  EXPECT_DOUBLE_EQ(r.checks.at("answer_share_yes"), 0.5);
  EXPECT_EQ(r.checks.at("queries"), 3);
  EXPECT_EQ(r.checks.at("queries_without_pair"), 1);
}

TEST(MsMarco, ReciprocalRank) {
  TemporaryDir dir;
  dir.write("msmarco.validation.jsonl", kQa);
  FakeLanguageModel model;
  // a1 is second of a; c3 first of c, c0 last: 1/2 and 1.
  set_scores(model, [](const std::string& p) {
    return p == "a0" ? 3.0 : p == "a1" ? 2.0 : p == "c3" ? 4.0 : p == "c0" ? -9.0 : 0.0;
  });
  const TaskResult ranked = run_task("msmarco", model, msmarco_options(dir), {});
  EXPECT_DOUBLE_EQ(ranked.metrics.at("mrr_at_10").value, 0.75);
  EXPECT_DOUBLE_EQ(ranked.metrics.at("mrr_at_10").stderr_, 0.25);
  EXPECT_EQ(ranked.samples[0].detail["reciprocal_rank"], 0.5);
  // A constant score earns the last rank: 1/3 and 1/3 (two unselected before the selected).
  set_scores(model, [](const std::string&) { return -3.0; });
  const TaskResult constant = run_task("msmarco", model, msmarco_options(dir), {});
  EXPECT_DOUBLE_EQ(constant.metrics.at("mrr_at_10").value, 1.0 / 3);
  EXPECT_EQ(constant.checks.at("top_answer_share"), 1);
  EXPECT_DOUBLE_EQ(constant.metrics.at("accuracy").value, 0.5);
  set_scores(model, [](const std::string&) { return std::nan(""); });
  const TaskResult broken = run_task("msmarco", model, msmarco_options(dir), {});
  EXPECT_EQ(broken.metrics.at("mrr_at_10").value, 0);
  EXPECT_EQ(broken.metrics.at("accuracy").value, 0);
  EXPECT_EQ(broken.checks.at("not_finite"), 9);
}

TEST(MsMarco, RankBeyondTenEarnsNothing) {
  TemporaryDir dir;
  Json row = {{"query", "q"},
              {"passages", {{"is_selected", Json::array()}, {"passage_text", Json::array()}}}};
  for (int i = 0; i < 11; ++i) {
    row["passages"]["is_selected"].push_back(i == 10);
    row["passages"]["passage_text"].push_back("p" + std::to_string(i));
  }
  dir.write("msmarco.validation.jsonl", row.dump());
  FakeLanguageModel model;
  set_scores(model, [](const std::string& p) { return p == "p10" ? -1.0 : p == "p0" ? -2.0 : 1.0; });
  EXPECT_DOUBLE_EQ(run_task("msmarco", model, msmarco_options(dir), {}).metrics.at("mrr_at_10").value, 0.1);
  set_scores(model, [](const std::string& p) { return p == "p10" ? -1.0 : 1.0; });
  EXPECT_EQ(run_task("msmarco", model, msmarco_options(dir), {}).metrics.at("mrr_at_10").value, 0);
}

TEST(MsMarco, PairsDependOnTheSeedAlone) {
  TaskOptions options;
  options.data_dir = testing::mini_dir() / "data";
  options.limit = 40;
  FakeLanguageModel model;
  const auto keys = [&] {
    std::vector<std::string> all;
    for (const Sample& sample : run_task("msmarco", model, options, {}).samples) all.push_back(sample.key);
    return all;
  };
  const auto first = keys();
  EXPECT_EQ(first, keys());
  EXPECT_EQ(first.size(), 80u);
  EXPECT_EQ(std::set(first.begin(), first.end()).size(), 80u);
  options.seed = 1;
  EXPECT_NE(first, keys());
  options.seed = 0;
  options.limit = 10;
  const auto fewer = keys();
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), first.begin()));
}

constexpr const char* kTrec =
    R"({"qid": 19, "query": "q19", "docid": 1, "passage": "p1", "rel": 0}
{"qid": 19, "query": "q19", "docid": 2, "passage": "p2", "rel": 1}
{"qid": 47, "query": "q47", "docid": 3, "passage": "p3", "rel": 3}
{"qid": 19, "query": "q19", "docid": 4, "passage": "p4", "rel": 2}
{"qid": "47", "query": "q47", "docid": 5, "passage": "p5", "rel": 1}
{"qid": 50, "query": "q50", "docid": 6, "passage": "p6", "rel": 1}
)";

TEST(MsMarco, OnePassageALineCountsRelevantFromTwoUp) {
  TemporaryDir dir;
  dir.write("msmarco/trec_dl19_judged.jsonl", kTrec);
  FakeLanguageModel model;
  TaskOptions options = msmarco_options(dir);
  set_scores(model, [](const std::string& p) { return p == "p3" || p == "p4" ? 1.0 : -1.0; });
  const TaskResult r = run_task("msmarco", model, options, {});
  EXPECT_EQ(r.metrics.at("accuracy").value, 1);
  EXPECT_EQ(r.metrics.at("mrr_at_10").value, 1);
  EXPECT_EQ(r.checks.at("queries"), 3);
  EXPECT_EQ(r.checks.at("queries_without_pair"), 1);
  EXPECT_DOUBLE_EQ(r.checks.at("always_no_accuracy"), 4.0 / 6);
  EXPECT_EQ(r.samples[0].key, "0/2");  // p4 is the third passage of the first query
  options.limit = 1;                   // a query, with all its lines
  EXPECT_EQ(run_task("msmarco", model, options, {}).checks.at("queries"), 1);
  EXPECT_EQ(model.loglik_requests.size(), 6u);
}

TEST(MsMarco, ExamplesHoldOtherQueriesOnly) {
  TemporaryDir dir;
  dir.write("msmarco.train.jsonl", kQa);
  FakeLanguageModel model;
  TaskOptions options = msmarco_options(dir);
  options.split = "train";
  options.shots = 1;
  const TaskResult r = run_task("msmarco", model, options, {});
  for (const Sample& sample : r.samples) {
    const bool of_a = sample.cluster == "0";
    EXPECT_THAT(sample.prompt, HasSubstr(of_a ? "Query: qc\n" : "Query: qa\n"));
    EXPECT_EQ(sample.prompt.find(of_a ? "Query: qa" : "Query: qc"), sample.prompt.rfind("Query: "));
  }
  options.shots = 2;  // query b has no pair, so there is one other
  EXPECT_THAT(error_of([&] { run_task("msmarco", model, options, {}); }), HasSubstr("use fewer shots"));
}

TEST(MsMarco, MalformedRowsNameTheLine) {
  FakeLanguageModel model;
  const auto message = [&](const std::string& rows) {
    TemporaryDir dir;
    dir.write("msmarco.validation.jsonl", rows);
    return error_of([&] { run_task("msmarco", model, msmarco_options(dir), {}); });
  };
  EXPECT_THAT(message(R"({"query": "q", "passages": {"is_selected": [0], "passage_text": ["a", "b"]}})"),
              HasSubstr("line 1: 2 passages but 1 of is_selected"));
  EXPECT_THAT(message(R"({"query": "q", "passages": 5})"), HasSubstr("line 1: 'passage_text' is missing"));
  EXPECT_THAT(message(R"({"query": "q", "passages": {"is_selected": ["x"], "passage_text": ["a"]}})"),
              HasSubstr("line 1: 'is_selected'"));
  EXPECT_THAT(message(R"({"query": "q"})"), HasSubstr("line 1: neither"));
  EXPECT_THAT(message(R"({"qid": 1, "query": "q", "passage": "p"})"), HasSubstr("line 1: 'rel' is missing"));
  EXPECT_THAT(message(R"({"query": "q", "passage": "p", "rel": 1})"), HasSubstr("line 1: 'qid' is missing"));
  EXPECT_THAT(message(R"({"query": "q", "passages": {"is_selected": [0], "passage_text": ["a"]}})"),
              HasSubstr("none of 1 queries"));
}

TEST(MsMarco, ReadsThePublicFiles) {
  const auto dir = testing::shared_dir() / "data";
  NIBBLE_NEEDS(dir / "msmarco" / "trec_dl19_judged.jsonl");
  TaskOptions options;
  options.data_dir = dir;
  FakeLanguageModel model;
  const TaskResult qa = run_task("msmarco", model, options, {});
  EXPECT_EQ(qa.checks.at("queries"), 150);
  EXPECT_EQ(qa.checks.at("queries_without_pair"), 8);
  EXPECT_EQ(qa.rows, 284);
  options.split = "trec_dl19_judged";
  const TaskResult trec = run_task("msmarco", model, options, {});
  EXPECT_EQ(trec.checks.at("queries"), 43);
  EXPECT_EQ(trec.rows, 86);
  EXPECT_DOUBLE_EQ(trec.checks.at("always_no_accuracy"), (1407 + 842) / 3831.0);
}

}  // namespace
}  // namespace nibble
