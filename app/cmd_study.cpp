// nibble study [STUDY.toml] [--models …] [--methods …] --out DIR
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/memory_usage.h"
#include "base/progress.h"
#include "commands.h"
#include "eval/task.h"
#include "model/facts.h"
#include "model/find_model.h"
#include "open_model.h"
#include "quant/method.h"
#include "report/format.h"
#include "report/json.h"
#include "report/report.h"
#include "report/terminal.h"
#include "study/forecast.h"
#include "study/merge.h"
#include "study/plan.h"
#include "study/quantized_models.h"
#include "study/runner.h"
#include "study_display.h"

namespace nibble::app {
namespace {

struct StudyArguments {
  std::string file, out;
  std::vector<std::string> methods, merge, like;
  std::string shard;
  int jobs = 1;
  bool dry_run = false;
  StudyOptions plan;
};

StudyPlan make_plan(const StudyArguments& options, const GlobalOptions& global) {
  StudyOptions command_line = options.plan;
  if (!options.methods.empty()) {
    command_line.methods.emplace();
    for (const std::string& name : options.methods) command_line.methods->emplace_back().name = name;
  }
  if (global.threads > 0) command_line.threads = global.threads;
  if (global.device != "cpu") command_line.device = global.device;
  StudyPlan plan =
      resolve_plan(options.file.empty() ? StudyOptions{} : read_study_file(options.file), command_line);
  describe_quantized(plan, locate_model);
  for (const QuantizedModel& q : plan.quantized) fmt::print(stderr, "nibble: {}\n", description(q));
  if (plan.data) return plan;
  // A quantized model is named by its directory, which says nothing of task files: decided here, once.
  for (const std::string& model : plan.models) plan.data = task_files(std::nullopt, model);
  for (const QuantizedModel& q : plan.quantized)
    plan.data = task_files(std::nullopt, q.of.empty() ? q.model : q.of);
  return plan;
}

// The report of what there is, in DIR and on standard output.
void show_report(const StudyArguments& options, const GlobalOptions& global, bool print_it) {
  const report::Report report =
      report::make_report(Store::open(std::filesystem::path(options.out) / "results.db", true));
  report::write_report(report, options.out);
  if (!print_it) return;
  if (!global.json_file.empty()) write_file_atomically(global.json_file, report::render_json(report));
  const bool only_json = global.wants_json() && global.json_file.empty();
  print(only_json ? report::render_json(report) : report::render_table1_terminal(report));
}

// What would be done, how long it may take and what it may need.
int forecast(const StudyPlan& plan, const StudyArguments& options, const GlobalOptions& global,
             const Shard& shard) {
  std::map<std::string, uint64_t> parameters;
  for (const std::string& model : plan.models)
    parameters[model] = model_facts(*load_model(locate_model(model), global.gguf_dtype())).parameters;
  for (const QuantizedModel& q : plan.quantized) {
    if (q.of.empty()) parameters[q.model] = model_facts(*load_model(locate_model(q.model))).parameters;
  }
  const std::vector<std::filesystem::path> like(options.like.begin(), options.like.end());
  const Forecast f = forecast_study(plan, options.out, shard, like, parameters);
  std::string text;
  OrderedJson json{
      {"cells", f.cells}, {"done", f.done}, {"measured", f.measured}, {"steps", OrderedJson::array()}};
  for (const ForecastStep& step : f.steps) {
    OrderedJson entry{{"variant", step.variant.name()}, {"work", step.work}};
    std::string line = fmt::format("  {:<44}", fmt::format("{} {}", step.variant.name(), step.work));
    if (step.seconds) entry["seconds"] = {{"value", step.seconds->value}, {"basis", step.seconds->basis}};
    if (step.memory) entry["peak_rss"] = {{"value", step.memory->value}, {"basis", step.memory->basis}};
    const auto time = [](double seconds) { return seconds < 1 ? "< 1 s" : duration_text(seconds); };
    line += fmt::format("{:>12}", step.seconds ? time(step.seconds->value) : "unknown");
    line += step.memory ? fmt::format("{:>12}", report::megabytes(step.memory->value) + " MB")
                        : fmt::format("{:>12}", "unknown");
    if (step.seconds) line += "  " + step.seconds->basis;
    text += line + "\n";
    json["steps"].push_back(std::move(entry));
  }
  const auto seconds = f.seconds();
  const auto available = static_cast<double>(available_memory_bytes());
  json["seconds"] = seconds ? OrderedJson(*seconds) : OrderedJson();
  json["available_memory"] = available;
  text += fmt::format("{} of {} cells are done; {} steps to run, predicted from {} measured cells\n", f.done,
                      f.cells, f.steps.size(), f.measured);
  const char* rough = f.rough() ? ", roughly: scaled from another model" : "";
  if (!f.steps.empty()) {
    text += seconds
                ? fmt::format("time    about {}{}\n", duration_text(*seconds), rough)
                : fmt::format(
                      "time    unknown for {} steps; --like DIR takes a study of this machine as a guide\n",
                      f.without_seconds());
    if (const ForecastStep* most = f.most_memory()) {
      const size_t unknown = f.without_memory();
      text += fmt::format("memory  up to {} MB ({} {}){}; {} MB are free now\n",
                          report::megabytes(most->memory->value), most->variant.name(), most->work,
                          unknown > 0 ? fmt::format(", unknown for {} steps", unknown) : "",
                          report::megabytes(available));
    }
  }
  write_output(global, json, text);
  return 0;
}

int merge(const StudyArguments& options, const GlobalOptions& global) {
  if (!options.file.empty() || options.plan.models || !options.shard.empty())
    throw UsageError("--merge: takes the plan of what it merges; leave the study and --shard out");
  const std::vector<std::filesystem::path> sources(options.merge.begin(), options.merge.end());
  const MergeOutcome outcome = merge_studies(sources, options.out);
  show_report(options, global, true);
  fmt::print(stderr, "nibble: {}\n", outcome.message);
  return outcome.done == outcome.cells ? 0 : 1;
}

int run(const StudyArguments& options, const GlobalOptions& global) {
  if (!options.merge.empty()) return merge(options, global);
  RunnerOptions runner;
  runner.version = NIBBLE_VERSION;
  runner.jobs = options.jobs;
  if (!options.shard.empty()) runner.shard = parse_shard(options.shard);
  const StudyPlan plan = make_plan(options, global);
  // Fetched before the first cell, not in the middle of a measured one.
  for (const std::string& model : plan.models) locate_model(model);
  if (options.dry_run) return forecast(plan, options, global, runner.shard);
  StudyOutcome outcome;
  {
    StudyDisplay display;
    outcome = run_study(plan, options.out, runner, display);
  }
  show_report(options, global, outcome.stop_signal == 0);
  fmt::print(stderr, "nibble: {}\n", outcome.message);
  if (outcome.stop_signal != 0) return 128 + outcome.stop_signal;
  return outcome.complete() ? 0 : 1;
}

}  // namespace

Run cmd_study(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<StudyArguments>();
  StudyOptions& plan = options->plan;
  verb.option("study", options->file, "a study file; what stands on the command line wins")
      .type_name("STUDY.toml");
  verb.option("--out", options->out,
              "folder of results.db, table1.md, logs and models; a second call goes on")
      .required()
      .type_name("DIR");
  const auto list = [&](const char* name, auto& value, const std::string& help) {
    verb.option(name, value, help).comma_list().type_name("A,B,…");
  };
  list("--models", plan.models,
       "models as for other verbs; one that is quantized already is measured against its unquantized model");
  std::string methods_help;
  for (const Method& method : methods())
    methods_help += fmt::format("{}{}", methods_help.empty() ? "" : ", ", method.name);
  list("--methods", options->methods, methods_help + "; default gptq,gsq");
  list("--group-sizes", plan.group_sizes, "weights that share a scale, 0: a whole row; default 16,64");
  list("--tasks", plan.tasks, "boolq, msmarco, gsm8k, wikitext; default: all");
  verb.option("--bits", plan.bits, "2, 3, 4, 6 or 8; default 4");
  verb.option("--limit", plan.limit, "the first rows of each task only");
  verb.option("--shots", plan.shots, "examples in a GSM8K prompt");
  verb.option("--seed", plan.seed, "of all that is drawn; default 0");
  verb.option("--window", plan.window, "tokens of a perplexity window");
  verb.option("--data", plan.data, "folder of the task files").type_name("DIR");
  list("--calibration", plan.calibration, "text files to calibrate with; default: the built-in mixture");
  verb.option("--samples", plan.samples, "sequences to calibrate with");
  verb.option("--seqlen", plan.seqlen, "tokens of each");
  verb.flag("--same-examples{true}", plan.same_examples,
            "the same examples before every GSM8K row: they run once");
  verb.flag("--symmetric{true}", plan.symmetric, "no zero points");
  verb.option("--bench-prompt", plan.bench_prompt, "tokens of the prompt test");
  verb.option("--bench-generate", plan.bench_generate, "tokens of the generation test");
  verb.option("--bench-repetitions", plan.bench_repetitions, "of each test; 0: no bench");
  verb.option("--kl-windows", plan.kl_windows,
              "of wikitext's text, for the distance to the baseline; default 16, 0: none");
  verb.option("--kl-window", plan.kl_window, "tokens of each");
  verb.option("--jobs", options->jobs,
              "quantizations at a time, where memory allows; measured cells always run alone")
      .range(1, 256)
      .show_default();
  verb.option("--shard", options->shard, "this machine's part of a study that N machines like it share")
      .type_name("i/N");
  verb.flag("--dry-run", options->dry_run,
            "only say what would be run, how long it may take and what it needs");
  list("--like", options->like, "for --dry-run: studies measured on this machine to predict from");
  list("--merge", options->merge, "folders of shards: puts their results into --out, and runs nothing");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
