// nibble eval MODEL --tasks boolq,msmarco,gsm8k,wikitext
#include <cmath>

#include "base/file.h"
#include "base/memory_usage.h"
#include "base/progress.h"
#include "commands.h"
#include "eval/engine.h"
#include "eval/task.h"
#include "interrupt.h"
#include "model/cuda_device.h"
#include "model/facts.h"
#include "open_model.h"
#include "report/format.h"
#include "report/text_table.h"

namespace nibble::app {
namespace {

struct EvalArguments {
  std::string model;
  std::vector<std::string> tasks = {"boolq", "msmarco", "gsm8k", "wikitext"};
  std::optional<std::string> data, samples;
  TaskOptions task;
  EngineOptions engine;
};

struct Evaluation {
  std::vector<TaskResult> results;
  MemoryBytes memory;
};

Evaluation evaluate(const EvalArguments& options, const LoadedModel& loaded, const GlobalOptions& global) {
  ThreadPool pool(global.thread_count(), global.pin);
  EngineOptions engine_options = options.engine;
  engine_options.precision = global.precision();
  engine_options.batch_tokens = default_batch_tokens(engine_options.precision.device);
  Engine engine(loaded.model, loaded.tokenizer, engine_options, pool);
  Evaluation evaluation;
  for (const std::string& task : options.tasks) {
    Progress progress(stderr, task, "requests");
    evaluation.results.push_back(run_task(task, engine, options.task, [&](size_t done, size_t total) {
      InterruptGuard::check();
      progress.update(done, total);
    }));
  }
  evaluation.memory = {.file = loaded.model->checkpoint().file_bytes,
                       .weights = loaded.model->weight_bytes(),
                       .kv_cache = engine.cache_bytes(),
                       .workspace = engine.workspace_bytes(),
                       .peak_rss = peak_rss_bytes(),
                       .peak_gpu = gpu_bytes_in_use(engine_options.precision.device)};
  return evaluation;
}

// A share as per cent, a perplexity as itself.
std::string metric_text(const std::string& name, double value) {
  const bool share =
      name.find("accuracy") != std::string::npos || name.find("exact_match") != std::string::npos;
  return share ? report::percent(value) + " %" : report::perplexity(value);
}

// Counts as they are, shares with three digits.
std::string check_text(double value) {
  return value == std::floor(value) ? fmt::format("{:.0f}", value) : report::three_digits(value);
}

std::string render(const Evaluation& evaluation) {
  using report::Align;
  report::TextTable table;
  table.heads = {{"task"},
                 {"metric"},
                 {"value", Align::kRight},
                 {"95 % interval", Align::kRight},
                 {"split"},
                 {"rows", Align::kRight},
                 {"seconds", Align::kRight}};
  std::string notes;
  for (const TaskResult& r : evaluation.results) {
    for (const auto& [name, metric] : r.metrics) {
      table.rows.push_back(
          {r.task, name + (name == r.primary ? " *" : ""), metric_text(name, metric.value),
           report::interval(metric_text(name, metric.ci_low), metric_text(name, metric.ci_high)), r.split,
           std::to_string(r.rows), report::fixed(r.seconds, 1)});
    }
    notes += fmt::format("\n{}: {} shots, seed {}\n  checks: ", r.task, r.shots, r.seed);
    const char* comma = "";
    for (const auto& [name, value] : r.checks) {
      notes += fmt::format("{}{} {}", comma, name, check_text(value));
      comma = ", ";
    }
    notes += fmt::format("\n  latency ms: mean {:.1f}, p50 {:.1f}, p90 {:.1f}, p95 {:.1f}, p99 {:.1f}",
                         r.latency_ms.mean, r.latency_ms.p50, r.latency_ms.p90, r.latency_ms.p95,
                         r.latency_ms.p99);
    if (r.output_tokens_per_s > 0)
      notes += fmt::format("; first token {:.1f}, each further {:.1f}", r.first_token_ms.mean,
                           r.per_token_ms.mean);
    notes += fmt::format("\n  tokens/s: prompt {:.1f}", r.prompt_tokens_per_s);
    if (r.output_tokens_per_s > 0) notes += fmt::format(", output {:.1f}", r.output_tokens_per_s);
    notes += "\n";
  }
  const MemoryBytes& m = evaluation.memory;
  const auto mb = [](uint64_t bytes) { return report::megabytes(static_cast<double>(bytes)); };
  return report::to_terminal(table, 110) + notes +
         fmt::format("\nmemory MB: file {}, weights {}, cache {}, workspace {}, peak {}\n", mb(m.file),
                     mb(m.weights), mb(m.kv_cache), mb(m.workspace), mb(m.peak_rss));
}

OrderedJson to_json(const Evaluation& evaluation, const EvalArguments& options, const Model& model,
                    const GlobalOptions& global) {
  OrderedJson json;
  json["model"] = options.model;
  json["model_sha256"] = checkpoint_sha256(model.checkpoint());
  json["quantization"] = quantization_summary(model);
  json["device"] = device_name(global.precision().device);
  json["threads"] = global.thread_count();
  json["dtype"] = global.dtype;
  json["version"] = NIBBLE_VERSION;
  json["results"] = OrderedJson::array();
  for (const TaskResult& result : evaluation.results)
    json["results"].push_back(OrderedJson(nibble::to_json(result)));
  json["memory_bytes"] = nibble::to_json(evaluation.memory);
  return json;
}

// One object a line; with several tasks each names its own.
void write_samples(const std::string& path, const Evaluation& evaluation) {
  AtomicFile file(path);
  for (const TaskResult& result : evaluation.results) {
    for (const Sample& sample : result.samples) {
      Json line = nibble::to_json(sample);
      line["task"] = result.task;
      file.write(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    }
  }
  file.commit();
}

int run(EvalArguments options, const GlobalOptions& global) {
  for (const std::string& task : options.tasks) find_task(task);
  options.task.data_dir = task_files(options.data, options.model);
  const InterruptGuard guard;
  const LoadedModel loaded = open_model(options.model, global);
  const Evaluation evaluation = evaluate(options, loaded, global);
  if (options.samples) write_samples(*options.samples, evaluation);
  write_output(global, to_json(evaluation, options, *loaded.model, global), render(evaluation));
  return 0;
}

}  // namespace

Run cmd_eval(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<EvalArguments>();
  TaskOptions& task = options->task;
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("--tasks", options->tasks, "boolq, msmarco, gsm8k, wikitext; default: all")
      .comma_list()
      .type_name("T,…");
  verb.option("--data", options->data, "folder of the task files; bundled models have made-up ones")
      .type_name("DIR");
  verb.option("--split", task.split, "train, validation, test or mixed; default: the task's own")
      .type_name("S");
  verb.option("--limit", task.limit, "the first rows only").type_name("N");
  verb.option("--shots", task.shots, "examples in a GSM8K prompt, 0 to 8; default 5").type_name("K");
  verb.flag("--same-examples", task.same_examples, "the same examples before every row: they run once");
  verb.option("--batch", options->engine.slots, "sequences at a time").show_default().type_name("B");
  verb.option("--seed", task.seed, "of the examples and pairs that are drawn").show_default();
  verb.option("--window", task.window, "tokens of a perplexity window; default 2048, or the model's context")
      .type_name("N");
  verb.option("--log-samples", options->samples, "file for every row: prompt, answer, score").type_name("F");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
