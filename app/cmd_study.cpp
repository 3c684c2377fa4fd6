// nibble study [STUDY.toml] [--models …] [--methods …] --out DIR
#include "base/error.h"
#include "base/file.h"
#include "commands.h"
#include "eval/task.h"
#include "model/find_model.h"
#include "open_model.h"
#include "report/json.h"
#include "report/report.h"
#include "report/terminal.h"
#include "study/merge.h"
#include "study/plan.h"
#include "study/runner.h"
#include "study_display.h"

namespace nibble::app {
namespace {

struct Options {
  std::string file, out;
  std::vector<std::string> methods, merge;
  std::string shard;
  int jobs = 1;
  StudyOptions plan;
};

KnownNames known_names() {
  KnownNames known;
  known.tasks.clear();
  for (const TaskInfo& task : all_tasks()) known.tasks.emplace_back(task.name);
  return known;
}

StudyPlan make_plan(const Options& options, const GlobalOptions& global, const KnownNames& known) {
  StudyOptions command_line = options.plan;
  if (!options.methods.empty()) {
    command_line.methods.emplace();
    for (const std::string& name : options.methods) command_line.methods->emplace_back().name = name;
  }
  if (global.threads > 0) command_line.threads = global.threads;
  StudyPlan plan = resolve_plan(options.file.empty() ? StudyOptions{} : read_study_file(options.file, known),
                                command_line, known);
  if (plan.data) return plan;
  // A quantized model is named by its directory, which says nothing of task files: decided here, once.
  for (const std::string& model : plan.models) plan.data = task_files(std::nullopt, model);
  return plan;
}

// The report of what there is, in DIR and on standard output.
void show_report(const Options& options, const GlobalOptions& global, bool print_it) {
  const report::Report report =
      report::make_report(Store::open(std::filesystem::path(options.out) / "results.db", true));
  report::write_report(report, options.out);
  if (!print_it) return;
  if (!global.json_file.empty()) write_file_atomically(global.json_file, report::render_json(report));
  const bool only_json = global.wants_json() && global.json_file.empty();
  print(only_json ? report::render_json(report) : report::render_table1_terminal(report));
}

int merge(const Options& options, const GlobalOptions& global) {
  if (!options.file.empty() || options.plan.models || !options.shard.empty())
    throw UsageError("--merge: takes the plan of what it merges; leave the study and --shard out");
  const std::vector<std::filesystem::path> sources(options.merge.begin(), options.merge.end());
  const MergeOutcome outcome = merge_studies(sources, options.out, known_names());
  show_report(options, global, true);
  fmt::print(stderr, "nibble: {}\n", outcome.message);
  return outcome.done == outcome.cells ? 0 : 1;
}

int run(const Options& options, const GlobalOptions& global) {
  if (!options.merge.empty()) return merge(options, global);
  const KnownNames known = known_names();
  RunnerOptions runner;
  runner.version = NIBBLE_VERSION;
  runner.known = known;
  runner.jobs = options.jobs;
  if (!options.shard.empty()) runner.shard = parse_shard(options.shard);
  const StudyPlan plan = make_plan(options, global, known);
  // Fetched before the first cell, not in the middle of a measured one.
  for (const std::string& model : plan.models) locate_model(model);
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
  auto options = std::make_shared<Options>();
  StudyOptions& plan = options->plan;
  verb.option("study", options->file, "a study file; what stands on the command line wins")
      .type_name("STUDY.toml");
  verb.option("--out", options->out,
              "folder of results.db, table1.md, logs and models; a second call goes on")
      .required()
      .type_name("DIR");
  const auto list = [&](const char* name, auto& value, const char* help) {
    verb.option(name, value, help).comma_list().type_name("A,B,…");
  };
  list("--models", plan.models, "models as for other verbs");
  list("--methods", options->methods, "gptq, gsq, rtn; default gptq,gsq");
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
  verb.flag("--symmetric{true}", plan.symmetric, "no zero points");
  verb.option("--bench-prompt", plan.bench_prompt, "tokens of the prompt test");
  verb.option("--bench-generate", plan.bench_generate, "tokens of the generation test");
  verb.option("--bench-repetitions", plan.bench_repetitions, "of each test; 0: no bench");
  verb.option("--jobs", options->jobs,
              "quantizations at a time, where memory allows; measured cells always run alone")
      .range(1, 256)
      .show_default();
  verb.option("--shard", options->shard, "this machine's part of a study that N machines like it share")
      .type_name("i/N");
  list("--merge", options->merge, "folders of shards: puts their results into --out, and runs nothing");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
