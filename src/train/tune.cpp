#include "train/tune.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/file.h"
#include "base/memory_usage.h"
#include "base/stopwatch.h"
#include "io/foreign/repack.h"
#include "io/safetensors.h"
#include "model/session.h"
#include "quant/quantize.h"
#include "train/adam.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::string parts_of(const TuneOptions& o) {
  return o.scales ? o.zeros ? "scales+zeros" : "scales" : "zeros";
}

using Values = std::vector<std::vector<float>>;
Values values_of(const std::vector<Parameter*>& parameters) {
  Values values;
  for (const Parameter* p : parameters) values.push_back(p->value);
  return values;
}

// The directory's weights and configuration with what `trained` holds now.
void write_tuned(const Model& quantized, TrainedModel& trained, const TuneOptions& options,
                 const fs::path& dir, ThreadPool& pool) {
  const Checkpoint& from = quantized.checkpoint();
  std::vector<std::pair<std::string, TensorView>> all;
  std::vector<PackedBuffers> buffers;
  std::set<std::string> replaced;
  for (TrainedBlock& block : trained.blocks) {
    for (TrainedLinear& linear : block.linears) {
      if (!linear.scales.trained() && !linear.zeros.trained()) continue;
      buffers.push_back(pack(linear.stored(), &pool));
      const PackedView view = buffers.back().view(linear.format());
      for (const char* part : {".codes", ".scales", ".zeros"}) replaced.insert(linear.name() + part);
      add_packed_tensors(linear.name(), view, {}, all);
    }
  }
  for (const auto& [name, view] : from.tensors) {
    if (!replaced.contains(name)) all.emplace_back(name, view);
  }
  order_for_mapping(all);
  write_safetensors(dir / "model.safetensors", all, {{"format", "nibble"}});
  Json config = from.config;
  config["quantization_config"]["tuned"] = parts_of(options);
  write_file_atomically(dir / "config.json", config.dump(2) + "\n");
}

}  // namespace

void TuneOptions::validate() const {
  if (!scales && !zeros) throw UsageError("nothing to tune: scales, zeros or both");
  if (steps < 1 || steps > 1'000'000)
    throw UsageError(fmt::format("--tune-steps {}: expected 1 to 1000000", steps));
  if (tokens < 2 || tokens > 1 << 16)
    throw UsageError(fmt::format("--tune-tokens {}: expected 2 to 65536", tokens));
  if (!(rate > 0) || !(rate < 1))
    throw UsageError(fmt::format("--tune-rate {}: expected more than 0, less than 1", rate));
  if (!(temperature > 0))
    throw UsageError(fmt::format("--tune-temperature {}: expected a positive number", temperature));
}

OrderedJson to_json(const TuneReport& report, const TuneOptions& o) {
  OrderedJson checks = OrderedJson::array();
  for (const auto& check : report.checks) checks.push_back({{"step", check.step}, {"kl", check.kl}});
  return {{"parts", parts_of(o)},          {"steps", o.steps},
          {"tokens", report.tokens},       {"rate", o.rate},
          {"temperature", o.temperature},  {"checks", checks},
          {"best_step", report.best_step}, {"seconds", report.seconds},
          {"peak_rss", report.peak_rss}};
}

TuneReport tune(std::shared_ptr<const Model> original, TrainedModel& trained, const Calibration& text,
                const TuneOptions& o, ThreadPool& pool, const TuneProgress& progress) {
  const Stopwatch watch;
  if (original->config.vocab_size != trained.config().vocab_size)
    fail("{}: a vocabulary of {} tokens, the original model has {}", trained.model().name(),
         trained.config().vocab_size, original->config.vocab_size);
  const std::vector<Parameter*> parameters = trained.parameters();
  if (parameters.empty()) fail("{}: no layer has {} to tune", trained.model().name(), parts_of(o));
  const size_t held_out = std::min(static_cast<size_t>(o.held_out), text.samples.size() / 2);
  if (held_out == 0)
    fail("tuning needs text for two sequences of {} tokens at least; name more files", o.tokens);
  const size_t samples = text.samples.size() - held_out;
  const int context = static_cast<int>(text.longest());
  Session teacher(original, {.context = context, .batch_tokens = context, .precision = Precision::exact()},
                  pool);
  GradientPass pass(trained, {.batch_tokens = context, .context = context, .recompute = o.recompute}, pool);
  Divergence divergence(teacher, static_cast<float>(o.temperature), pool), judge(teacher, 1, pool);
  std::vector<AdamRule> rules;
  for (Parameter* p : parameters) {
    const bool scales = p->name.ends_with(".scales");
    rules.push_back({p, scales ? o.rate : o.zero_rate, scales, 0});
  }
  Adam adam(std::move(rules), {.beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-12f});

  TuneReport report;
  Batch batch;
  const auto put = [&](size_t sample) -> const Batch& {
    batch.clear();
    batch.add(0, 0, text.samples[sample]);
    return batch;
  };
  Values best = values_of(parameters);
  const auto check = [&](int step) {
    double sum = 0, tokens = 0;
    for (size_t i = samples; i < text.samples.size(); ++i) {
      if (progress && step > 0) progress(step, o.steps, report.checks.back().kl);
      const double count = static_cast<double>(text.samples[i].size());
      sum += count * pass.loss(put(i), judge);
      tokens += count;
    }
    const double kl = sum / tokens;
    const auto better = std::min_element(report.checks.begin(), report.checks.end(),
                                         [](const auto& a, const auto& b) { return a.kl < b.kl; });
    if (better != report.checks.end() && kl < better->kl) {
      best = values_of(parameters);
      report.best_step = step;
    }
    report.checks.push_back({step, kl});
  };
  check(0);
  double smoothed = report.checks.front().kl;
  if (progress) progress(0, o.steps, smoothed);
  for (int step = 1; step <= o.steps; ++step) {
    const size_t sample = static_cast<size_t>(step - 1) % samples;
    const double kl = pass.gradients(put(sample), divergence);
    if (!std::isfinite(kl)) break;  // the best so far stays
    adam.step(1 - static_cast<double>(step - 1) / o.steps, pool);
    report.tokens += static_cast<int64_t>(text.samples[sample].size());
    smoothed = kProgressSmoothing * smoothed + (1 - kProgressSmoothing) * kl;
    if (progress) progress(step, o.steps, smoothed);
    // Checks at equal distances, the last at the end.
    if (step * o.checks / o.steps > (step - 1) * o.checks / o.steps) check(step);
  }
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i]->value = best[i];
  report.seconds = watch.seconds();
  report.peak_rss = peak_rss_bytes();
  return report;
}

OrderedJson tune_directory(std::shared_ptr<const Model> original, const fs::path& dir,
                           CalibrationOptions wanted, const TuneOptions& o, ThreadPool& pool,
                           const TuneProgress& progress) {
  o.validate();
  wanted.samples = o.steps + o.held_out;
  wanted.seqlen = std::min(o.tokens, original->config.max_context);
  ++wanted.seed;  // other places of the files than the quantizer's
  const Calibration text = load_calibration(wanted, original->load_tokenizer());
  const fs::path report_file = dir / kQuantizationReport;
  OrderedJson report = OrderedJson::parse(read_file(report_file));
  const auto quantized = load_model(dir);
  TrainedModel trained(quantized, {.scales = o.scales, .zeros = o.zeros}, pool);
  const TuneReport tuned = tune(std::move(original), trained, text, o, pool, progress);
  report["tune"] = to_json(tuned, o);
  report["tune"]["text_sha256"] = text.sha256;
  if (tuned.best_step > 0) {
    write_tuned(*quantized, trained, o, dir, pool);
    report["model_sha256"] = checkpoint_sha256(open_checkpoint(dir));
  }
  write_file_atomically(report_file, report.dump(1) + "\n");
  return report;
}

}  // namespace nibble
