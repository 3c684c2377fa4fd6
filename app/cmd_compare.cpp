// nibble compare BASE QUANT... [--file F]
#include <cmath>

#include "base/file.h"
#include "base/memory_usage.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "commands.h"
#include "eval/compare_run.h"
#include "eval/task.h"
#include "eval/task_data.h"
#include "interrupt.h"
#include "open_model.h"
#include "quant/calibration.h"
#include "report/format.h"

namespace nibble::app {
namespace {

struct CompareArguments {
  std::string base;
  std::vector<std::string> quants;
  std::optional<std::string> file, data;
  std::string base_activations;  // "int8", "f32"; empty: as --activations
  CompareOptions compare{.windows = 40};
};

std::string render(const Comparison& c, const std::string& quant, const CompareArguments& options) {
  using report::fixed, report::percent, report::perplexity, report::three_digits;
  std::string text = fmt::format("{} against {}: {} windows of {} tokens, {} positions\n", quant,
                                 options.base, c.windows, c.window, c.tokens);
  text +=
      fmt::format("  KL               {} ± {} (p50 {}, p90 {}, p99 {}, p99.9 {}, max {})\n",
                  fixed(c.kl_mean, 5), fixed(c.kl_stderr, 5), three_digits(c.kl_p50), three_digits(c.kl_p90),
                  three_digits(c.kl_p99), three_digits(c.kl_p999), three_digits(c.kl_max));
  if (!std::isnan(c.kl_minus_first.value))
    text += fmt::format("  KL less that of  {}: {:+.5f} ± {}\n", options.quants.front(),
                        c.kl_minus_first.value, fixed(c.kl_minus_first.stderr_, 5));
  text += fmt::format("  top-1 agreement  {} ± {} %\n", percent(c.top1_agreement), percent(c.top1_stderr));
  text += fmt::format("  Δp of the truth  {} ± {}, RMS {}\n", fixed(c.dp_mean, 5), fixed(c.dp_stderr, 5),
                      fixed(c.dp_rms, 5));
  text +=
      fmt::format("  perplexity       {} → {}, ln ratio {} ± {}\n", perplexity(c.ppl_base),
                  perplexity(c.ppl_quant), fixed(c.ln_ppl_ratio.value, 5), fixed(c.ln_ppl_ratio.stderr_, 5));
  if (c.not_finite > 0) text += fmt::format("  {} positions without a finite KL\n", c.not_finite);
  return text;
}

// --file, or the text that the task wikitext scores.
DataFile text_of(const CompareArguments& options) {
  if (!options.file)
    return open_task_file(task_files(options.data, options.base), kTextTask,
                          find_task(kTextTask).default_split);
  if (options.data) throw UsageError("--file and --data: one of them says which text");
  return DataFile{*options.file, prompt_text(*options.file), sha256_of(read_file(*options.file))};
}

int run(CompareArguments options, const GlobalOptions& global) {
  const DataFile text = text_of(options);
  options.compare.precision = global.precision();
  if (!options.base_activations.empty()) {
    options.compare.base_precision = options.compare.precision;
    options.compare.base_precision->int8 = options.base_activations == "int8";
  }
  const InterruptGuard guard;
  const LoadedModel base = open_model(options.base, global);
  // The same model twice lies in memory once.
  std::vector<std::shared_ptr<const Model>> quants;
  for (const std::string& quant : options.quants) {
    quants.push_back(quant == options.base ? base.model
                                           : std::make_shared<const Model>(open_checkpoint(
                                                 locate_model(quant), global.gguf_dtype(), false)));
  }
  ThreadPool pool(global.thread_count(), global.pin);
  Progress progress(stderr, "compare", "windows");
  const auto comparisons = compare_models(base.model, quants, *base.tokenizer, text.text, options.compare,
                                          pool, [&](size_t done, size_t total) {
                                            InterruptGuard::check();
                                            progress.update(done, total);
                                          });
  progress.finish();
  OrderedJson json, others = OrderedJson::array();
  std::string shown;
  json["base"] = options.base;
  for (size_t i = 0; i < comparisons.size(); ++i) {
    OrderedJson one = {{"quant", options.quants[i]}};
    one.update(to_json(comparisons[i]));
    i == 0 ? json.update(one) : others.push_back(one);
    shown += render(comparisons[i], options.quants[i], options);
  }
  if (!others.empty()) json["others"] = others;
  json["data_sha256"] = text.sha256;
  json["peak_rss"] = peak_rss_bytes();  // of this process, all models in it
  write_output(global, json, shown);
  return 0;
}

}  // namespace

Run cmd_compare(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<CompareArguments>();
  verb.option("base", options->base, kModelHelp).required().type_name("BASE");
  verb.option("quant", options->quants, "the quantized model; of several each is held against the first too")
      .required()
      .type_name("QUANT...");
  verb.option("--file,--text", options->file,
              "a text that neither was made with; JSONL of a task: its rows in prompt form; without it the "
              "test text of the task wikitext")
      .type_name("F");
  verb.option("--data", options->data, "folder of the task files, for a run without --file").type_name("DIR");
  verb.option("--windows", options->compare.windows, "windows from the text's start; 0: all").show_default();
  verb.option("--window", options->compare.window,
              "tokens a window, of which the second half is scored; default 512, or what all models allow");
  verb.option("--base-activations", options->base_activations,
              "int8 or f32: what BASE's 4-bit weights are multiplied with; default: as --activations")
      .one_of({"int8", "f32"});
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
