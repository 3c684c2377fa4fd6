// nibble finetune MODEL OUT
#include <filesystem>

#include "base/file.h"
#include "base/progress.h"
#include "commands.h"
#include "eval/engine.h"
#include "eval/exact_match.h"
#include "eval/gsm8k_answer.h"
#include "eval/task_data.h"
#include "interrupt.h"
#include "open_model.h"
#include "quant/result_directory.h"
#include "report/format.h"
#include "train/finetune.h"

namespace nibble::app {
namespace {

namespace fs = std::filesystem;

struct FinetuneArguments {
  std::string model, out, method = "lora";
  std::optional<std::string> data;
  FineTuneOptions tune;
  int save_every = 0;
  bool adapter = false, force = false;
  Argument score_rows{nullptr};
};

constexpr const char* kReport = "finetune_report.json";

// --data, or the bundled train rows of GSM8K's form.
fs::path training_file(const FinetuneArguments& options) {
  if (!options.data) return open_task_file(task_files(std::nullopt, options.model), "gsm8k", "train").path;
  if (fs::is_directory(*options.data)) return open_task_file(*options.data, "gsm8k", "train").path;
  return *options.data;
}

std::string describe(const FineTuneReport::Check& check) {
  std::string text = "held-out loss " + report::fixed(check.loss, 4);
  if (check.exact_match) text += fmt::format(", {:.1f} % answered right", 100 * *check.exact_match);
  return text;
}

std::string render(const FineTuneReport& r, const FinetuneArguments& options) {
  const double rate = static_cast<double>(r.tokens) / r.training_seconds;
  std::string text =
      fmt::format("{}: {} steps on {} rows, {} tokens ({} of answers), {:.0f} tokens/s, {:.0f} s\n",
                  options.out, r.steps, r.rows, r.tokens, r.answer_tokens, rate, r.seconds);
  text += fmt::format("{} rows held out: {} before; {} after", r.held_out, describe(r.checks.front()),
                      describe(r.checks.back()));
  if (r.too_long > 0)
    text += fmt::format("\n{} rows were longer than {} tokens", r.too_long, options.tune.context);
  return text + "\n";
}

// What the model with the weights of now answers to held-out rows: they are written as they would be in the
// end and read again. None where no row's answer ends in "#### NUMBER".
std::optional<double> score(TrainedModel& trained, std::span<const TrainingRow* const> rows,
                            std::shared_ptr<const Tokenizer> tokenizer, const fs::path& folder,
                            ThreadPool& pool) {
  std::vector<AskedProblem> problems;
  for (const TrainingRow* row : rows) {
    const std::span<const int32_t> tokens(row->tokens);
    const size_t prompt = static_cast<size_t>(row->prompt);
    if (const auto number = extract_strict(tokenizer->decode(tokens.subspan(prompt))))
      problems.push_back({{tokens.begin(), tokens.begin() + row->prompt}, normalize_answer(*number)});
  }
  if (problems.empty()) return std::nullopt;
  write_fine_tuned(trained, folder, pool);
  double share = 0;
  {
    Engine engine(load_model(folder), std::move(tokenizer), {}, pool);
    share = exact_match(engine, problems, [](size_t, size_t) { InterruptGuard::check(); });
  }
  fs::remove_all(folder);
  return share;
}

int run(FinetuneArguments options, const GlobalOptions& global) {
  FineTuneOptions& tune = options.tune;
  if (options.method != "lora" && options.method != "full")
    throw UsageError(fmt::format("--method {}: lora or full", options.method));
  tune.full = options.method == "full";
  tune.bf16 = global.precision().bf16;
  tune.validate();
  if (tune.full && options.adapter) throw UsageError("--adapter: full fine-tuning has none");
  const InterruptGuard guard;
  const fs::path file = training_file(options);
  const LoadedModel loaded = open_model(options.model, global);
  // The tokenizer's JSON goes into the result.
  const auto model =
      options.adapter ? loaded.model : load_model(locate_model(options.model), global.gguf_dtype());
  if (model->is_quantized() && !options.adapter)
    fail("{}: quantized; fine-tune the original, or keep the adapter apart with --adapter", options.model);
  if (model->is_quantized()) {
    if (options.score_rows.given() && tune.score_rows > 0)
      throw UsageError("--score-rows: adapters beside quantized weights are not scored on the way");
    tune.score_rows = 0;
  }
  ThreadPool pool(global.thread_count(), global.pin);
  const TrainingText text = load_training_text(file, *model, *loaded.tokenizer, tune);
  const ResultDirectory result(options.out, kReport);
  result.begin(options.force);
  TrainedModel trained(model, trained_parts(tune), pool);
  Progress progress(stderr, "finetune", "steps");
  FineTuneCalls calls;
  calls.progress = [&](int done, int total, double loss) {
    InterruptGuard::check();
    progress.note("loss " + report::fixed(loss, 4));
    progress.update(static_cast<size_t>(done), static_cast<size_t>(total));
  };
  calls.score = [&](std::span<const TrainingRow* const> rows) {
    return score(trained, rows, loaded.tokenizer, result.unfinished() / "snapshot", pool);
  };
  calls.checked = [&](const FineTuneReport::Check& check) {
    progress.finish();
    fmt::print(stderr, "step {}: {}\n", check.step, describe(check));
  };
  calls.keep = {result.unfinished(), options.save_every, options.force, NIBBLE_VERSION};
  const FineTuneReport report = fine_tune(trained, text, tune, pool, calls);
  progress.finish();
  if (options.adapter) {
    write_adapter(trained, tune, options.out);
  } else {
    write_fine_tuned(trained, options.out, pool);
  }
  OrderedJson json = {{"model", options.model}, {"out", options.out}, {"data", file.string()}};
  json.update(to_json(report, tune));
  result.finish(json.dump(1) + "\n");
  write_output(global, json, render(report, options));
  return 0;
}

}  // namespace

Run cmd_finetune(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<FinetuneArguments>();
  FineTuneOptions& t = options->tune;
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("out", options->out, "the directory to write").required().type_name("OUT");
  verb.option(
          "--data", options->data,
          "JSONL of question and answer, or of prompt and completion; or a directory with GSM8K's train rows")
      .type_name("F");
  verb.option("--method", options->method,
              "lora: adapters beside the linears, merged at the end; full: all weights")
      .show_default();
  verb.option("--rank", t.rank, "lora: of an adapter").show_default();
  verb.option("--alpha", t.alpha, "lora: adapters count alpha/rank times").show_default();
  verb.option("--lr", t.rate, "highest learning rate; 0: 5e-4 for lora, 2e-5 for full").show_default();
  verb.option("--epochs", t.epochs, "times that every row is seen").show_default();
  verb.option("--max-steps", t.max_steps, "fewer steps than that; 0: no such limit").show_default();
  verb.option("--batch", t.batch, "rows a step").show_default();
  verb.option("--context", t.context, "longer rows are left out").show_default();
  verb.option("--warmup", t.warmup, "share of the steps in which the rate rises").show_default();
  verb.option("--clip", t.clip, "most that a gradient may be long; 0: any").show_default();
  verb.option("--weight-decay", t.decay, "of weights, not of norms and biases").show_default();
  verb.flag("--strip-marks", t.strip_marks, "leave calculator marks <<…>> out of the answers");
  verb.option("--seed", t.seed, "draws the order of the rows").show_default();
  options->score_rows =
      verb.option("--score-rows", t.score_rows,
                  "held-out rows that the model answers at every check, where answers end in '#### NUMBER'");
  options->score_rows.show_default();
  verb.option("--save-every", options->save_every,
              "steps after which a stopped run can go on; 0: about every half minute")
      .show_default();
  verb.flag("--adapter", options->adapter, "lora: write the adapter alone, as peft reads it");
  verb.flag("--force", options->force, "write over OUT");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
