// nibble quantize MODEL OUT
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "analysis.h"
#include "base/file.h"
#include "base/progress.h"
#include "commands.h"
#include "convert/convert.h"
#include "export_summary.h"
#include "interrupt.h"
#include "open_model.h"
#include "quant/quantize.h"
#include "report/format.h"
#include "report/recommend_specification.h"
#include "train/tune.h"

namespace nibble::app {
namespace {

namespace fs = std::filesystem;

struct QuantizeArguments {
  std::string model, out, plan_file, format = "nibble";
  std::vector<std::string> calibration;
  std::string analysis;                    // a file of `nibble analyze`; empty: measured when it is needed
  std::optional<double> target_bpw;        // of the linear layers
  std::optional<std::string> target_size;  // of the weights' file
  QuantizeOptions quantize;
  std::string tuned = "none";  // "scales", "rounding+scales+zeros", …
  TuneOptions tune;
  int tune_save_every = 0;
  bool force = false, dequantize = false;
  Argument head_bits{nullptr}, growth_limit{nullptr}, scale_bits{nullptr};
};

// Where the packed model lies until it is exported.
fs::path beside(const std::string& out) {
  fs::path path = fs::path(out).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.string() + fmt::format(".packed{}", ::getpid());
}

struct TemporaryModel {
  fs::path path;  // empty: nothing to remove
  explicit TemporaryModel(fs::path path_) : path(std::move(path_)) {}
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  ~TemporaryModel() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

std::string method_help() {
  std::string text;
  for (const Method& method : methods())
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", method.name, method.summary);
  return text;
}

std::string render_tuning(const OrderedJson& tune) {
  const auto number = [](const OrderedJson& value) { return report::fixed(value.get<double>(), 5); };
  std::string text;
  if (tune.contains("rounding")) {
    const OrderedJson& rounding = tune["rounding"];
    double before = 0, after = 0;
    for (const OrderedJson& block : rounding["blocks"]) {
      before += block["error_before"].get<double>();
      after += block["error_after"].get<double>();
    }
    text += fmt::format(
        "rounding learned for {} steps a block in {:.0f} s: blocks' held-out output error ×{:.3f}, KL {} → "
        "{}{}\n",
        rounding["steps"].get<int>(), rounding["seconds"].get<double>(), after / before,
        number(rounding["kl_before"]), number(rounding["kl_after"]),
        rounding["kept"].get<bool>() ? "" : ", no lower: left as it was");
  }
  if (!tune.contains("checks")) return text;
  const int best = tune["best_step"].get<int>();
  const OrderedJson& checks = tune["checks"];
  text += fmt::format("{} tuned for {} steps in {:.0f} s: held-out KL {}", tune["parts"].get<std::string>(),
                      tune["steps"].get<int>(), tune["seconds"].get<double>(), number(checks.front()["kl"]));
  for (const OrderedJson& check : checks) {
    if (best > 0 && check["step"] == best) text += " → " + number(check["kl"]);
  }
  return text + (best > 0 ? "\n" : ", which no step lowered: left as they were\n");
}

// The worst layers and every fallback; the whole table stands in the report.
std::string render(const OrderedJson& report, const std::string& out, const std::string& format) {
  constexpr size_t kWorst = 5;
  const OrderedJson& totals = report["totals"];
  const std::string how =
      report.contains("plan")
          ? fmt::format("its plan ({:.3f} bits a weight)", report["plan"]["bits_per_weight"].get<double>())
          : fmt::format("{} bits, group size {}{}", report["bits"].get<int>(),
                        report["group_size"].get<int>(),
                        report["scale_bits"] == 8 ? ", scales of 8 bits" : "");
  std::string text = fmt::format("{}: {}, {}: {} MB, {:.2f} bits a weight with everything, {:.0f} s\n", out,
                                 report["method"].get<std::string>(), how,
                                 report::megabytes(totals["file_bytes"].get<double>()),
                                 totals["bits_per_weight"].get<double>(), totals["seconds"].get<double>());
  std::vector<const OrderedJson*> measured, fallbacks;
  for (const OrderedJson& layer : report["linears"]) {
    if (!layer["error"].is_null() && !layer["rtn_error"].is_null()) measured.push_back(&layer);
    if (layer["fallback"] != "") fallbacks.push_back(&layer);
  }
  std::stable_sort(measured.begin(), measured.end(), [](const OrderedJson* a, const OrderedJson* b) {
    return (*a)["error"].get<double>() > (*b)["error"].get<double>();
  });
  if (!measured.empty()) text += "largest relative output errors (of rounding beside them):\n";
  for (size_t i = 0; i < std::min(kWorst, measured.size()); ++i) {
    const OrderedJson& layer = *measured[i];
    text += fmt::format("  {:<40} {:.2e}  ({:.2e})\n", layer["name"].get<std::string>(),
                        layer["error"].get<double>(), layer["rtn_error"].get<double>());
  }
  if (report.contains("tune")) text += render_tuning(report["tune"]);
  for (const OrderedJson* layer : fallbacks)
    text += fmt::format("  {}: {} ({})\n", (*layer)["name"].get<std::string>(),
                        (*layer)["fallback"].get<std::string>(), (*layer)["reason"].get<std::string>());
  for (const OrderedJson& warning : report["warnings"])
    text += fmt::format("  {}\n", warning.get<std::string>());
  return text + fmt::format("every layer: {}\n", format == "nibble" ? out + "/" + kQuantizationReport : out);
}

// The plan that loses least within the target, measured now or read from a file of `nibble analyze`.
SizePlan planned(const QuantizeArguments& options, std::shared_ptr<const Model> model, ThreadPool& pool) {
  const QuantizeOptions& q = options.quantize;
  Analysis analysis;
  if (options.analysis.empty()) {
    CalibrationOptions text = q.calibration;
    text.samples = std::min(text.samples, kAnalysisSamples);
    AnalysisOptions wanted;
    wanted.symmetric = wanted.probe.symmetric = q.plan.base.symmetric;
    wanted.scale_bits = q.plan.base.scale_bits;
    wanted.kl_by_group = false;
    wanted.gptq = rounds_by_gptq(q.plan.base.method);
    analysis = analyze(model, text, wanted, pool);
  } else {
    analysis =
        analysis_from_json(parse_json(read_file(options.analysis), options.analysis), options.analysis);
    if (!analysis.options.symmetric) analysis.options.scale_bits = q.plan.base.scale_bits;
  }
  int64_t bytes = 0;
  if (options.target_bpw) {
    for (const LinearAnalysis& l : analysis.linears)
      bytes += static_cast<int64_t>(static_cast<double>(l.n * l.k) * *options.target_bpw / 8);
  } else {
    bytes = static_cast<int64_t>(report::parse_bytes("--target-size", *options.target_size)) -
            bytes_beside_linears(*model, q);
  }
  return solve_plan(analysis, bytes, q.plan.base.method);
}

// What --tune names, into the options; false: nothing.
bool read_tuned(const std::string& parts, TuneOptions& tune) {
  if (parts == "none" || parts == "0") return false;
  tune.rounding = tune.scales = tune.zeros = false;
  for (size_t begin = 0; begin <= parts.size();) {
    const size_t end = std::min(parts.find('+', begin), parts.size());
    const std::string part = parts.substr(begin, end - begin);
    bool* wanted = part == "rounding" ? &tune.rounding
                   : part == "scales" ? &tune.scales
                   : part == "zeros"  ? &tune.zeros
                                      : nullptr;
    if (!wanted || *wanted)
      throw UsageError(fmt::format("--tune {}: rounding, scales and zeros, joined by +, or none", parts));
    *wanted = true;
    begin = end + 1;
  }
  tune.validate();
  return true;
}

OrderedJson tuned(std::shared_ptr<const Model> model, const fs::path& dir, const QuantizeArguments& options,
                  ThreadPool& pool) {
  Progress rounding(stderr, "rounding", "steps"), progress(stderr, "tune", "steps");
  const auto show = [](Progress& bar, const char* what, int digits) {
    return [&bar, what, digits](int done, int total, double value) {
      InterruptGuard::check();
      bar.note(what + report::fixed(value, digits));
      bar.update(static_cast<size_t>(done), static_cast<size_t>(total));
    };
  };
  return tune_directory(
      std::move(model), dir, options.quantize.calibration, options.tune, pool, show(progress, "KL ", 4),
      {{}, options.tune_save_every, options.force, NIBBLE_VERSION}, show(rounding, "error ", 6));
}

int run(QuantizeArguments options, const GlobalOptions& global) {
  QuantizeOptions& quantize = options.quantize;
  const ExportFormat format = export_format(options.format);
  const bool exported = format != ExportFormat::kNibble;
  // Embedding and head at 16 bits is all that these formats can say.
  if (exported && format != ExportFormat::kGguf && !options.head_bits.given()) quantize.head_bits = 16;
  const fs::path out = exported ? beside(options.out) : fs::path(options.out);
  const TemporaryModel temporary(exported ? out : fs::path());
  if (exported && !options.force && fs::exists(options.out))
    fail("{}: exists; give another name, or --force to write over it", options.out);
  quantize.version = NIBBLE_VERSION;
  const bool targeted = options.target_bpw || options.target_size;
  if (targeted && !options.scale_bits.given() && !quantize.plan.base.symmetric)
    quantize.plan.base.scale_bits = 8;
  if (!options.plan_file.empty()) quantize.plan.rules = read_plan_rules(options.plan_file);
  quantize.validate();
  const bool tunes = read_tuned(options.tuned, options.tune);
  quantize.to_complete = tunes;
  if (options.target_bpw && options.target_size) throw UsageError("--target-bpw or --target-size, not both");
  quantize.calibration.files = calibration_files(options.calibration, options.model);
  quantize.device = global.precision().device;
  require_device(global);
  const InterruptGuard guard;
  const auto model = load_model(locate_model(options.model), global.gguf_dtype());
  ThreadPool pool(global.thread_count(), global.pin);
  if (targeted) {
    quantize.planned = planned(options, model, pool);
    // What was solved has weighed its group sizes already, and is to keep its size.
    if (!options.growth_limit.given()) quantize.layer.growth_limit = std::numeric_limits<double>::infinity();
    fmt::print(stderr, "{}", render_plan(*quantize.planned));
    // Rules of --plan come later and so win.
    std::vector<Plan::Rule> rules = rules_of(*quantize.planned);
    rules.insert(rules.end(), quantize.plan.rules.begin(), quantize.plan.rules.end());
    quantize.plan.rules = std::move(rules);
  }
  Progress progress(stderr, "quantize", "blocks");
  OrderedJson report = quantize_model(model, quantize, out, options.force, pool, [&](int done, int total) {
    InterruptGuard::check();
    progress.update(static_cast<size_t>(done), static_cast<size_t>(total));
  });
  progress.finish();
  if (tunes) report = tuned(model, out, options, pool);
  if (!exported) {
    write_output(global, report, render(report, options.out, "nibble"));
    return 0;
  }
  const ConvertReport written =
      convert_model(*load_model(out), {format, options.dequantize, options.force}, options.out);
  const fs::path report_file = format == ExportFormat::kGguf
                                   ? fs::path(options.out + "." + kQuantizationReport)
                                   : fs::path(options.out) / kQuantizationReport;
  write_file_atomically(report_file, read_file(out / kQuantizationReport));
  OrderedJson json = report;
  json["export"] = export_json(written, options.out, options.format);
  write_output(global, json,
               render(report, report_file.string(), options.format) +
                   export_summary(written, options.out, options.format));
  return 0;
}

}  // namespace

Run cmd_quantize(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<QuantizeArguments>();
  QuantizeOptions& q = options->quantize;
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("out", options->out, "the directory to write").required().type_name("OUT");
  verb.option("--method", q.plan.base.method, method_help()).show_default();
  verb.option("--bits", q.plan.base.bits, "2, 3, 4, 6 or 8; 16 leaves the layers as they are").show_default();
  verb.option("--group-size", q.plan.base.group_size,
              "inputs that share a scale: 16, 32, 64, 128, …; 0: the whole row")
      .show_default();
  verb.flag("--symmetric", q.plan.base.symmetric, "no zero points");
  options->scale_bits =
      verb.option("--scale-bits", q.plan.base.scale_bits,
                  "of a group's scale: 16 (fp16), or 8, a multiple of a power of two of the row; "
                  "8 by default with a target");
  options->scale_bits.show_default();
  verb.flag("--act-order", q.layer.act_order, "gptq: columns by falling activation, groups as stored");
  verb.option("--damp", q.layer.damp, "gptq: share of the mean diagonal added to the Hessian").show_default();
  verb.option("--error-limit", q.layer.error_limit, "relative output error above which a layer falls back")
      .show_default();
  options->growth_limit = verb.option(
      "--growth-limit", q.layer.growth_limit,
      "times the error of groups of 16 above which a layer takes smaller groups; none with a target");
  options->growth_limit.show_default();
  verb.option("--plan", options->plan_file,
              "TOML file of [[rule]]s: pattern, method, bits, group_size, symmetric, scale_bits")
      .type_name("F.toml");
  verb.option(
          "--target-bpw", options->target_bpw,
          "bits a weight of the linear layers, scales included: bits and group sizes by measured sensitivity")
      .type_name("BITS");
  verb.option("--target-size", options->target_size, "the same for the size of the weights' file: 250MB")
      .type_name("SIZE");
  verb.option("--analysis", options->analysis,
              "measured sensitivities: `nibble analyze --out`; default: measured now")
      .type_name("F.json");
  options->head_bits =
      verb.option("--head-bits", q.head_bits,
                  "embedding and head: 2, 3, 4, 6, 8 or 16; 16 by default for the other formats but gguf");
  options->head_bits.show_default();
  verb.option("--calibration", options->calibration,
              "text or JSONL of training data; default: the bundled text")
      .type_name("F");
  verb.option("--samples", q.calibration.samples, "calibration samples").show_default();
  verb.option("--seqlen", q.calibration.seqlen, "tokens a sample").show_default();
  verb.option("--seed", q.calibration.seed, "draws the samples").show_default();
  verb.option("--tune", options->tuned,
              "what to move afterwards towards the original model, joined by +: rounding (integers and "
              "ranges, by "
              "each block's output), scales, zeros (by the distributions)")
      .show_default();
  verb.option("--tune-steps", options->tune.steps, "tuning: steps, one sequence each").show_default();
  verb.option("--tune-tokens", options->tune.tokens, "tuning: tokens a sequence").show_default();
  verb.option("--tune-block-steps", options->tune.blocks.steps, "tuning the rounding: steps a block")
      .show_default();
  verb.option("--tune-batch", options->tune.blocks.batch, "tuning the rounding: sequences a step")
      .show_default();
  verb.option("--tune-rounding-rate", options->tune.blocks.rate,
              "tuning the rounding: part of a code that a step moves a weight at first")
      .show_default();
  verb.option("--tune-rate", options->tune.rate, "tuning: share of a scale that a step moves it at first")
      .show_default();
  verb.option("--tune-zero-rate", options->tune.zero_rate,
              "tuning: part of a code that a step moves a zero point")
      .show_default();
  verb.option("--tune-temperature", options->tune.temperature, "tuning: of the distributions").show_default();
  verb.option("--tune-save-every", options->tune_save_every,
              "tuning: steps after which a stopped run can go on; 0: about every half minute")
      .show_default();
  verb.option("--format", options->format,
              "of the result: nibble, gptq, gptq_v2, awq, compressed-tensors or gguf (OUT is a file then)")
      .show_default();
  verb.flag("--dequantize", options->dequantize, "what the format cannot say as F16, rounded");
  verb.flag("--force", options->force, "write over OUT");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
