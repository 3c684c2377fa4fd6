// nibble analyze MODEL [--study DIR] [--out F.json]
#include <optional>

#include "analysis.h"
#include "base/file.h"
#include "commands.h"
#include "interrupt.h"
#include "model/find_model.h"
#include "open_model.h"
#include "report/report.h"
#include "study/stored_analysis.h"

namespace nibble::app {
namespace {

struct AnalyzeArguments {
  std::string model, out, study;
  std::vector<std::string> calibration;
  CalibrationOptions text{.files = {}, .samples = kAnalysisSamples, .seqlen = 512, .seed = 0};
  bool rounding_only = false;
  AnalysisOptions analysis;
};

int run(AnalyzeArguments options, const GlobalOptions& global) {
  options.analysis.probe.symmetric = options.analysis.symmetric;
  options.analysis.gptq = !options.rounding_only;
  options.analysis.validate();
  options.text.files = calibration_files(options.calibration, options.model);
  const InterruptGuard guard;
  if (global.device != "cpu") throw UsageError("analyze computes on the processor: --device cpu");
  const auto model = load_model(locate_model(options.model), global.gguf_dtype());
  const std::string sha256 = checkpoint_sha256(model->checkpoint());
  // Held to the end: no study of DIR measures beside it, and what comes out has its place.
  std::optional<Store> study;
  if (!options.study.empty()) {
    const auto results = std::filesystem::path(options.study) / "results.db";
    model_with_weights(Store::open(results, true), sha256, options.model);
    study = Store::open(results);
  }
  ThreadPool pool(global.thread_count(), global.pin);
  const Analysis analysis = analyze(model, options.text, options.analysis, pool);
  OrderedJson json{{"model", options.model}, {"sha256", sha256}};
  json.update(to_json(analysis));
  if (!options.out.empty()) write_file_atomically(options.out, json.dump(1) + "\n");
  if (study) {
    add_analysis(*study, json, options.model);
    report::write_report(*study, options.study);
  }
  write_output(global, json, render_analysis(analysis));
  return 0;
}

}  // namespace

Run cmd_analyze(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<AnalyzeArguments>();
  AnalysisOptions& a = options->analysis;
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("--bits", a.bits, "bits to try, with commas").comma_list().show_default();
  verb.option("--group-sizes", a.group_sizes, "group sizes to try, with commas").comma_list().show_default();
  verb.flag("--symmetric", a.symmetric, "no zero points");
  verb.option("--scale-bits", a.scale_bits, "of a group's scale, where linears are not symmetric: 8 or 16")
      .show_default();
  verb.option("--probe-bits", a.probe.bits, "a linear's bits when its KL is taken").show_default();
  verb.option("--probe-group", a.probe.group_size, "its group size then").show_default();
  verb.option("--kl-tokens", a.kl_tokens, "tokens of the KL, half of which are scored; 0: no KL")
      .show_default();
  verb.flag("--rounding-only", options->rounding_only,
            "no errors by GPTQ, which plans for gptq and its kin are made with");
  verb.option("--calibration", options->calibration,
              "text or JSONL of training data; default: the bundled text")
      .type_name("F");
  verb.option("--samples", options->text.samples, "calibration samples").show_default();
  verb.option("--seqlen", options->text.seqlen, "tokens a sample").show_default();
  verb.option("--seed", options->text.seed, "draws the samples").show_default();
  verb.option("--out", options->out, "JSON for `nibble quantize --analysis` and `nibble report --analysis`")
      .type_name("F.json");
  verb.option("--study", options->study,
              "a study of this model: its results and its report take the analysis in")
      .type_name("DIR");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
