#include "study/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/thread_pool.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The example of the documentation.
constexpr const char* kExample = R"(
models      = ["llama-mini", "qwen2-mini", "phi-mini"]
tasks       = ["boolq", "msmarco", "gsm8k", "wikitext"]
limit       = 200
seed        = 0
[[method]]
name        = "gsq"
group_sizes = [16, 64]
[[method]]
name        = "gptq"
group_sizes = [16, 64, 128]
)";

StudyOptions only_models(std::vector<std::string> models = {"m"}) {
  StudyOptions options;
  options.models = std::move(models);
  return options;
}

StudyPlan plan_of(const char* toml) { return resolve_plan(parse_study(toml, "s.toml"), {}); }

std::string plan_error(const std::string& toml) {
  try {
    resolve_plan(parse_study(toml, "s.toml"), {});
  } catch (const UsageError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "no error";
}

std::vector<std::string> names(const StudyPlan& plan) {
  std::vector<std::string> all;
  for (const Cell& cell : planned_cells(plan)) all.push_back(cell.variant.name() + " " + cell.task);
  return all;
}

TEST(Plan, Example) {
  const StudyPlan plan = plan_of(kExample);
  EXPECT_THAT(plan.models, ElementsAre("llama-mini", "qwen2-mini", "phi-mini"));
  EXPECT_EQ(plan.limit, 200);
  ASSERT_EQ(plan.methods.size(), 2u);
  EXPECT_EQ(plan.methods[0].name, "gsq");
  EXPECT_EQ(plan.methods[0].bits, 4);
  EXPECT_THAT(plan.methods[1].group_sizes, ElementsAre(16, 64, 128));
  EXPECT_EQ(planned_cells(plan).size(), 3u * ((1 + 5) * 5 + 5));  // four tasks and bench; five distances
}

TEST(Plan, ErrorsAreOneLineWhateverTheyQuote) {
  try {
    parse_study("symmetric = f\nl\n", "study.toml");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
  }
}

TEST(Plan, NamesWithLineBreaksDoNotBreakTheLine) {
  EXPECT_THAT(plan_error("models = [\"a\\nb\", \"a\\nb\"]"), HasSubstr("a?b stands there twice"));
  EXPECT_THAT(plan_error("[[quantized]]\nmodel = \"x\\ny\"\nof = \"z\\n\""), HasSubstr("x?y: 'of' names z?"));
  EXPECT_THAT(plan_error("dtype = \"a\\nb\""), HasSubstr("'a?b' is unknown"));
}

TEST(Plan, Defaults) {
  const StudyPlan plan = resolve_plan({}, only_models());
  ASSERT_EQ(plan.methods.size(), 2u);
  EXPECT_EQ(plan.methods[0].name, "gptq");
  EXPECT_EQ(plan.methods[1].name, "gsq");
  EXPECT_THAT(plan.methods[0].group_sizes, ElementsAre(16, 64));
  EXPECT_THAT(plan.methods[1].group_sizes, ElementsAre(16, 64));
  EXPECT_THAT(plan.tasks, ElementsAre("boolq", "msmarco", "gsm8k", "wikitext"));
  EXPECT_FALSE(plan.limit);
  EXPECT_EQ(plan.threads, available_threads());
}

TEST(Plan, OrderOfCells) {
  const StudyPlan plan = plan_of(R"(
models = ["a", "b"]
tasks = ["gsm8k", "boolq"]
methods = ["rtn"]
group_sizes = [64, 0]
bits = 8)");
  EXPECT_THAT(names(plan),
              ElementsAre("a baseline gsm8k", "a baseline boolq", "a baseline bench",              //
                          "a rtn-8bit-g64 gsm8k", "a rtn-8bit-g64 boolq", "a rtn-8bit-g64 bench",  //
                          "a rtn-8bit-row gsm8k", "a rtn-8bit-row boolq", "a rtn-8bit-row bench",  //
                          "b baseline gsm8k", "b baseline boolq", "b baseline bench",              //
                          "b rtn-8bit-g64 gsm8k", "b rtn-8bit-g64 boolq", "b rtn-8bit-g64 bench",  //
                          "b rtn-8bit-row gsm8k", "b rtn-8bit-row boolq", "b rtn-8bit-row bench"));
}

TEST(Plan, DistancesWhereWikitextIsAmongTheTasks) {
  const std::string study =
      "models = ['a']\ntasks = ['boolq', 'wikitext']\nmethods = ['rtn']\ngroup_sizes = [64]\n";
  EXPECT_THAT(
      names(plan_of(study.c_str())),
      ElementsAre("a baseline boolq", "a baseline wikitext", "a baseline bench", "a rtn-4bit-g64 boolq",
                  "a rtn-4bit-g64 wikitext", "a rtn-4bit-g64 kl", "a rtn-4bit-g64 bench"));
  const StudyPlan without = plan_of((study + "kl = {windows = 0}").c_str());
  EXPECT_EQ(planned_cells(without).size(), 6u);
  const StudyPlan other = plan_of((study + "kl = {windows = 4, window = 64}").c_str());
  EXPECT_EQ(other.kl_windows, 4);
  EXPECT_EQ(other.kl_window, 64);
}

TEST(Plan, QuantizedModelsStandBesideTheirBaselineOrAlone) {
  const StudyPlan plan = plan_of(R"(
models = ["a", "q/of-a", "q/alone"]
tasks = ["wikitext"]
methods = ["gptq"]
group_sizes = [32]
bench = {repetitions = 0}
[[quantized]]
model = "q/of-a"
of = "a"
method = "gptq"
bits = 4
group_size = 32
[[quantized]]
model = "q/alone"
method = "compressed-tensors"
bits = 8
)");
  EXPECT_THAT(plan.models, ElementsAre("a"));
  EXPECT_THAT(names(plan),
              ElementsAre("a baseline wikitext", "a gptq-4bit-g32 wikitext", "a gptq-4bit-g32 kl",
                          "a gptq-4bit-g32 (q/of-a) wikitext", "a gptq-4bit-g32 (q/of-a) kl",
                          "q/alone compressed-tensors-8bit-row wikitext"));
  const StudyPlan again = plan_of(to_toml(plan).c_str());
  EXPECT_EQ(again.quantized, plan.quantized);
  EXPECT_EQ(names(again), names(plan));

  // The command line's models: the file says of them what it knows.
  StudyOptions given = only_models({"q/alone", "b"});
  const StudyPlan named = resolve_plan(parse_study(to_toml(plan), "s.toml"), given);
  EXPECT_THAT(named.models, ElementsAre("b"));
  ASSERT_EQ(named.quantized.size(), 1u);
  EXPECT_EQ(named.quantized[0], plan.quantized[1]);

  EXPECT_THROW(planned_cells(plan_of("[[quantized]]\nmodel = 'x'")), Error);  // nobody has looked at it
  const std::string pair = "models = ['a', 'b']\n[[finetuned]]\nmodel = 'b'\nbase = ";
  const StudyPlan tuned = plan_of((pair + "'a'").c_str());
  EXPECT_EQ(tuned.finetuned, (std::vector<FineTunedModel>{{"b", "a"}}));
  EXPECT_EQ(plan_of(to_toml(tuned).c_str()).finetuned, tuned.finetuned);
  EXPECT_EQ(finetuned_json(tuned), R"([{"base":"a","model":"b"}])");
  EXPECT_THAT(plan_error((pair + "'c'").c_str()), HasSubstr("[[finetuned]] b: c is not among the models"));
  EXPECT_THAT(plan_error((pair + "'b'").c_str()), HasSubstr("is the model itself"));
  EXPECT_THAT(plan_error("[[finetuned]]\nmodel = 'b'"), HasSubstr("'base' is missing"));
  EXPECT_THAT(plan_error("[[quantized]]\nmodel = 'x'\nof = 'y'"),
              HasSubstr("y, which is not among the models"));
  EXPECT_THAT(plan_error("[[quantized]]\nof = 'y'"), HasSubstr("line 1: [[quantized]]: 'model' is missing"));
  EXPECT_THAT(plan_error("[[quantized]]\nmodel = 'x'\nbits = 4"), HasSubstr("stand together"));
  EXPECT_THAT(plan_error("quantized = 3"), HasSubstr("write [[quantized]]"));
  EXPECT_THAT(plan_error("[[quantized]]\nmodel = 'x'\n[[quantized]]\nmodel = 'x'"), HasSubstr("twice"));
}

TEST(Plan, OnlyBaselinesWithoutBench) {
  EXPECT_THAT(names(plan_of("models = ['a']\ntasks = ['boolq']\nmethods = []\nbench = {repetitions = 0}")),
              ElementsAre("a baseline boolq"));
}

TEST(Plan, CommandLineWins) {
  StudyOptions given;
  given.limit = 5;
  given.methods = std::vector<StudyMethod>{{"gptq", {}, {}}, {"rtn", {}, {}}};
  StudyPlan plan = resolve_plan(parse_study(kExample, "s.toml"), given);
  EXPECT_EQ(plan.limit, 5);
  EXPECT_EQ(plan.models.size(), 3u);
  ASSERT_EQ(plan.methods.size(), 2u);
  EXPECT_THAT(plan.methods[0].group_sizes, ElementsAre(16, 64, 128));  // as the file says of gptq
  EXPECT_THAT(plan.methods[1].group_sizes, ElementsAre(16, 64));
  given.group_sizes = {32};
  given.bits = 3;
  plan = resolve_plan(parse_study(kExample, "s.toml"), given);
  for (const MethodPlan& m : plan.methods) {
    EXPECT_THAT(m.group_sizes, ElementsAre(32));
    EXPECT_EQ(m.bits, 3);
  }
}

TEST(Plan, ResolvedFileResolvesToItself) {
  StudyOptions o = only_models({"a \"b\" \\ \n ü", "/x/y"});
  o.tasks = {{"gsm8k"}};
  o.methods = std::vector<StudyMethod>{{"gsq", {{0, 32}}, 2}, {"gsq", {{0}}, 8}};
  o.limit = int64_t{1} << 40;
  o.shots = 0;
  o.seed = INT64_MAX;
  o.data = ".";
  o.symmetric = true;
  o.calibration = {{std::filesystem::path("/proc/self/maps")}};
  o.samples = 7;
  o.seqlen = 8;
  o.window = 9;
  o.dtype = "float32";
  o.device = "cuda";
  o.threads = 3;
  o.bench_prompt = 4;
  o.bench_generate = 0;
  o.bench_repetitions = 1;
  o.kl_windows = 5;
  o.kl_window = 100;
  for (const StudyOptions& options : {o, only_models()}) {
    const StudyPlan plan = resolve_plan(options, {});
    const std::string text = to_toml(plan);
    const StudyPlan again = plan_of(text.c_str());
    EXPECT_EQ(to_toml(again), text);
    EXPECT_EQ(again.models, plan.models);
    EXPECT_EQ(names(again), names(plan));
    EXPECT_NO_THROW(check_same_study(plan, again, "d"));
  }
  EXPECT_THAT(to_toml(resolve_plan(o, {})), HasSubstr("data = '" + std::filesystem::current_path().string()));
}

TEST(Plan, ErrorsNameKeyAndLine) {
  EXPECT_THAT(plan_error("models = ['a']\nlimits = 3\n"), HasSubstr("s.toml line 2: unknown key 'limits'"));
  EXPECT_THAT(plan_error("models = ['a']\n\n[[method]]\nname = 'gptq'\ngroup = 3"),
              HasSubstr("s.toml line 5: unknown key 'group'"));
  EXPECT_THAT(plan_error("[bench]\nn = 3"), HasSubstr("s.toml line 2: unknown key 'n'"));
  EXPECT_THAT(plan_error("models = ['a'"), HasSubstr("s.toml line 1: "));
  EXPECT_THAT(plan_error("models = 'a'"), HasSubstr("s.toml line 1: models: not a list"));
  EXPECT_THAT(plan_error("models = ['a', 3]"), HasSubstr("line 1: models: not a text"));
  EXPECT_THAT(plan_error("models = ['a', 'a']"), HasSubstr("line 1: models: a stands there twice"));
  EXPECT_THAT(plan_error("\nlimit = 'x'"), HasSubstr("line 2: limit: not a whole number"));
  EXPECT_THAT(plan_error("\nlimit = 0"), HasSubstr("line 2: limit: 0 is below 1"));
  EXPECT_THAT(plan_error("limit = 1.5"), HasSubstr("line 1: limit: not a whole number"));
  EXPECT_THAT(plan_error("shots = 9"), HasSubstr("shots: 9 is above 8"));
  EXPECT_THAT(plan_error("seed = -1"), HasSubstr("seed: -1 is below 0"));
  EXPECT_THAT(plan_error("samples = 99999999999"), HasSubstr("samples: 99999999999 is above"));
  EXPECT_THAT(plan_error("symmetric = 1"), HasSubstr("symmetric: not true or false"));
  EXPECT_THAT(plan_error("device = 'abacus'"), HasSubstr("device: 'abacus' is unknown; known are cpu, cuda"));
  EXPECT_THAT(plan_error("dtype = 'int3'"),
              HasSubstr("dtype: 'int3' is unknown; known are float32, bfloat16"));
  EXPECT_THAT(plan_error("bits = 5"), HasSubstr("line 1: bits: 5; 2, 3, 4, 6 or 8"));
  EXPECT_THAT(plan_error("group_sizes = [16,\n -1]"), HasSubstr("line 2: group_sizes: -1"));
  EXPECT_THAT(plan_error("tasks = ['boolq',\n 'bolq']"),
              HasSubstr("line 2: tasks: 'bolq' is unknown; known are boolq"));
  EXPECT_THAT(plan_error("tasks = ['bench']"), HasSubstr("follows the tasks"));
  EXPECT_THAT(plan_error("methods = ['gtpq']"),
              HasSubstr("line 1: methods: 'gtpq' is unknown; known are gptq"));
  EXPECT_THAT(plan_error("methods = ['baseline']"), HasSubstr("in every study"));
  EXPECT_THAT(plan_error("methods = ['gptq']\n[[method]]\nname = 'gsq'"), HasSubstr("line 2: [[method]]"));
  EXPECT_THAT(plan_error("[method]\nname = 'gsq'"), HasSubstr("write [[method]]"));
  EXPECT_THAT(plan_error("[[method]]\nbits = 4"), HasSubstr("line 1: [[method]]: 'name' is missing"));
  EXPECT_THAT(plan_error("bench = 3"), HasSubstr("write [bench]"));
  EXPECT_THAT(plan_error("tasks = ['kl']"), HasSubstr("'kl' need not be named"));
  EXPECT_THAT(plan_error("kl = 3"), HasSubstr("write [kl]"));
  EXPECT_THAT(plan_error("[kl]\nwindow = 3"), HasSubstr("line 2: window: 3 is below 4"));
}

TEST(Plan, ErrorsOfTheWhole) {
  EXPECT_THAT(plan_error(""), HasSubstr("models: none"));
  EXPECT_THAT(plan_error("models = ['a']\n[[method]]\nname='gsq'\ngroup_sizes=[16]\n[[method]]\nname='gsq'"),
              HasSubstr("gsq at 4 bits and group size 16 stands there twice"));
  EXPECT_THAT(plan_error("models = ['a']\ngroup_sizes = []"), HasSubstr("group_sizes: none"));
  EXPECT_THAT(plan_error("models = ['a']\ntasks = []\nbench = {repetitions = 0}"), HasSubstr("tasks: none"));
  EXPECT_THAT(plan_error("models = ['a']\nbench = {prompt = 0, generate = 0}"), HasSubstr("bench: neither"));
  StudyOptions given = only_models();
  given.tasks = {{"typo"}};
  EXPECT_THROW(resolve_plan({}, given), UsageError);
}

TEST(Plan, FilesThatAreNotThere) {
  const auto error_of_files = [](const char* toml) -> std::string {
    try {
      plan_of(toml).check_files();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of_files("models = ['a']\ndata = '/no/such'"),
              HasSubstr("data: /no/such is not a directory"));
  EXPECT_THAT(error_of_files("models = ['a']\ncalibration = ['/no/such']"),
              HasSubstr("calibration: /no/such is not a file"));
  EXPECT_EQ(error_of_files("models = ['a']\ndata = '/'"), "no error");
}

TEST(Plan, StudyFileThatIsNotThere) { EXPECT_THROW(read_study_file("/no/such.toml"), Error); }

TEST(Plan, WhatMayChangeAndWhatNot) {
  const StudyPlan before = plan_of(kExample);
  StudyPlan now = before;
  now.models = {"other"};
  now.methods = {{"rtn", 8, {0}}};
  now.tasks = {"boolq"};
  EXPECT_NO_THROW(check_same_study(before, now, "d"));
  const auto error_after = [&](auto change) -> std::string {
    StudyPlan changed = before;
    change(changed);
    try {
      check_same_study(before, changed, "out");
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("another --out"));
      return error.what();
    }
    return "no error";
  };
  using P = StudyPlan;
  EXPECT_THAT(error_after([](P& p) { p.limit = 100; }), HasSubstr("limit = 200, not 100"));
  EXPECT_THAT(error_after([](P& p) { p.limit.reset(); }), HasSubstr("limit = 200, not (all)"));
  EXPECT_THAT(error_after([](P& p) { p.shots = 3; }), HasSubstr("shots = (default), not 3"));
  EXPECT_THAT(error_after([](P& p) { p.seed = 1; }), HasSubstr("seed = 0, not 1"));
  EXPECT_THAT(error_after([](P& p) { p.data = "/d"; }), HasSubstr("data = (default), not /d"));
  EXPECT_THAT(error_after([](P& p) { p.same_examples = true; }),
              HasSubstr("same_examples = false, not true"));
  EXPECT_THAT(error_after([](P& p) { p.symmetric = true; }), HasSubstr("symmetric = false, not true"));
  EXPECT_THAT(error_after([](P& p) { p.calibration = {"/c"}; }), HasSubstr("calibration"));
  EXPECT_THAT(error_after([](P& p) { p.samples = 1; }), HasSubstr("samples"));
  EXPECT_THAT(error_after([](P& p) { p.seqlen = 2; }), HasSubstr("seqlen"));
  EXPECT_THAT(error_after([](P& p) { p.window = 2; }), HasSubstr("window"));
  EXPECT_THAT(error_after([](P& p) { p.dtype = "float32"; }), HasSubstr("dtype"));
  EXPECT_THAT(error_after([](P& p) { p.device = "cuda"; }), HasSubstr("device"));
  EXPECT_THAT(error_after([](P& p) { p.threads = 77; }), HasSubstr("threads"));
  EXPECT_THAT(error_after([](P& p) { p.bench_prompt = 1; }), HasSubstr("bench prompt = 128, not 1"));
  EXPECT_EQ(error_after([](P& p) { p.bench_repetitions = 0; }), "no error");
  EXPECT_THAT(error_after([](P& p) { p.kl_windows = 4; }), HasSubstr("kl windows = 16, not 4"));
  EXPECT_THAT(error_after([](P& p) { p.kl_window = 64; }), HasSubstr("kl window = (default), not 64"));
  EXPECT_EQ(error_after([](P& p) { p.kl_windows = 0; }), "no error");
}

}  // namespace
}  // namespace nibble
