// nibble compare BASE QUANT --file F
#include "base/progress.h"
#include "commands.h"
#include "eval/compare_run.h"
#include "interrupt.h"
#include "open_model.h"
#include "quant/calibration.h"
#include "report/format.h"

namespace nibble::app {
namespace {

struct Options {
  std::string base, quant, file;
  std::string base_activations;  // "int8", "f32"; empty: as --activations
  CompareOptions compare{.window = 512, .windows = 40};
};

std::string render(const Comparison& c, const Options& options) {
  using report::fixed, report::percent, report::perplexity, report::three_digits;
  std::string text = fmt::format("{} against {}: {} windows of {} tokens, {} positions\n", options.quant,
                                 options.base, c.windows, options.compare.window, c.tokens);
  text +=
      fmt::format("  KL               {} ± {} (p50 {}, p90 {}, p99 {}, p99.9 {}, max {})\n",
                  fixed(c.kl_mean, 5), fixed(c.kl_stderr, 5), three_digits(c.kl_p50), three_digits(c.kl_p90),
                  three_digits(c.kl_p99), three_digits(c.kl_p999), three_digits(c.kl_max));
  text += fmt::format("  top-1 agreement  {} ± {} %\n", percent(c.top1_agreement), percent(c.top1_stderr));
  text += fmt::format("  Δp of the truth  {} ± {}, RMS {}\n", fixed(c.dp_mean, 5), fixed(c.dp_stderr, 5),
                      fixed(c.dp_rms, 5));
  text +=
      fmt::format("  perplexity       {} → {}, ln ratio {} ± {}\n", perplexity(c.ppl_base),
                  perplexity(c.ppl_quant), fixed(c.ln_ppl_ratio.value, 5), fixed(c.ln_ppl_ratio.stderr_, 5));
  if (c.not_finite > 0) text += fmt::format("  {} positions without a finite KL\n", c.not_finite);
  return text;
}

int run(Options options, const GlobalOptions& global) {
  const std::string text = prompt_text(options.file);
  options.compare.precision = global.precision();
  if (!options.base_activations.empty()) {
    options.compare.base_precision = options.compare.precision;
    options.compare.base_precision->int8 = options.base_activations == "int8";
  }
  device_name(global.precision().device);  // a GPU that is not there is known before the model is read
  const InterruptGuard guard;
  const LoadedModel base = open_model(options.base, global);
  // The same model twice lies in memory once.
  const auto quant = options.quant == options.base
                         ? base.model
                         : std::make_shared<const Model>(
                               open_checkpoint(locate_model(options.quant), global.gguf_dtype(), false));
  ThreadPool pool(global.thread_count(), global.pin);
  Progress progress(stderr, "compare", "windows");
  const Comparison comparison = compare_models(base.model, quant, *base.tokenizer, text, options.compare,
                                               pool, [&](size_t done, size_t total) {
                                                 InterruptGuard::check();
                                                 progress.update(done, total);
                                               });
  progress.finish();
  OrderedJson json;
  json["base"] = options.base;
  json["quant"] = options.quant;
  json["window"] = options.compare.window;
  json.update(to_json(comparison));
  write_output(global, json, render(comparison, options));
  return 0;
}

}  // namespace

Run cmd_compare(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<Options>();
  verb.option("base", options->base, kModelHelp).required().type_name("BASE");
  verb.option("quant", options->quant, "the quantized model").required().type_name("QUANT");
  verb.option("--file,--text", options->file,
              "a text that neither was made with; JSONL of a task: its rows in prompt form")
      .required()
      .type_name("F");
  verb.option("--windows", options->compare.windows, "windows from the text's start; 0: all").show_default();
  verb.option("--window", options->compare.window, "tokens a window; its second half is scored")
      .show_default();
  verb.option("--base-activations", options->base_activations,
              "int8 or f32: what BASE's 4-bit weights are multiplied with; default: as --activations")
      .one_of({"int8", "f32"});
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
