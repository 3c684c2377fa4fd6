#include "train/tune.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/file.h"
#include "io/foreign/repack.h"
#include "io/safetensors.h"
#include "model/session.h"
#include "quant/quantize.h"
#include "quant/result_directory.h"
#include "train/adam.h"
#include "train/training_loop.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// Of weights in float32: those of a larger model are made in each pass.
constexpr uint64_t kKeptWeights = uint64_t{1} << 30;

// The linears that training moved take what it left, which lies in `buffers`.
void take_over(const TrainedModel& trained, Model& quantized, std::vector<PackedBuffers>& buffers,
               ThreadPool& pool) {
  for (size_t i = 0; i < trained.blocks.size(); ++i) {
    for (const TrainedLinear& linear : trained.blocks[i].linears) {
      if (!linear.scales.trained() && !linear.zeros.trained()) continue;
      buffers.push_back(pack(linear.stored(), &pool));
      for (Linear* to : quantized.blocks[i].linears()) {
        if (to->name == linear.name()) to->packed = buffers.back().view(linear.format());
      }
    }
  }
}

// The directory's weights and configuration with the model's packed linears.
void write_tuned(const Model& tuned, const TuneOptions& options, const fs::path& dir) {
  const Checkpoint& from = tuned.checkpoint();
  std::vector<std::pair<std::string, TensorView>> all;
  std::set<std::string> replaced;
  for (const Linear* linear : tuned.linears()) {
    if (!linear->packed) continue;
    NIBBLE_CHECK(!linear->order);
    for (const char* part : {".codes", ".scales", ".zeros"}) replaced.insert(linear->name + part);
    add_packed_tensors(linear->name, *linear->packed, {}, all);
  }
  for (const auto& [name, view] : from.tensors) {
    if (!replaced.contains(name)) all.emplace_back(name, view);
  }
  order_for_mapping(all);
  write_safetensors(dir / "model.safetensors", all, {{"format", "nibble"}});
  Json config = from.config;
  config["quantization_config"]["tuned"] = tuned_parts(options);
  write_file_atomically(dir / "config.json", config.dump(2) + "\n");
}

}  // namespace

std::string tuned_parts(const TuneOptions& o) {
  std::string parts;
  const auto add = [&](bool wanted, const char* name) {
    if (wanted) parts += (parts.empty() ? "" : "+") + std::string(name);
  };
  add(o.rounding, "rounding");
  add(o.scales, "scales");
  add(o.zeros, "zeros");
  return parts;
}

void TuneOptions::validate() const {
  if (!scales && !zeros && !rounding) throw UsageError("nothing to tune: rounding, scales or zeros");
  if (rounding) blocks.validate();
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
  return {{"parts", tuned_parts(o)},       {"steps", o.steps},
          {"tokens", report.tokens},       {"rate", o.rate},
          {"temperature", o.temperature},  {"checks", checks},
          {"best_step", report.best_step}, {"seconds", report.seconds},
          {"peak_rss", report.peak_rss}};
}

namespace {

// Everything that the result depends on.
OrderedJson tune_settings(const Model& original, const TrainedModel& trained, const Calibration& text,
                          const TuneOptions& o, int threads) {
  return {{"model", checkpoint_outline_sha256(trained.model().checkpoint())},
          {"original model", checkpoint_outline_sha256(original.checkpoint())},
          {"text of --calibration", text.sha256},
          {"--tune", tuned_parts(o)},
          {"--tune-steps", o.steps},
          {"--tune-tokens", o.tokens},
          {"--tune-rate", o.rate},
          {"--tune-zero-rate", o.zero_rate},
          {"--tune-temperature", o.temperature},
          {"checks", o.checks},
          {"held out", o.held_out},
          {"--tune-block-steps", o.rounding ? o.blocks.steps : 0},
          {"--tune-batch", o.rounding ? o.blocks.batch : 0},
          {"--tune-rounding-rate", o.rounding ? o.blocks.rate : 0},
          {"--threads", threads}};
}

class Tuning : private TrainingLoop {
 public:
  Tuning(const std::shared_ptr<const Model>& original, TrainedModel& trained, const Calibration& text,
         size_t held_out, const TuneOptions& o, ThreadPool& pool, const TuneProgress& progress,
         const KeepOptions& keep)
      : TrainingLoop({keep, "tuning", tune_settings(*original, trained, text, o, pool.size())}, o.checks),
        options_(o),
        text_(text),
        samples_(text.samples.size() - held_out),
        pool_(pool),
        progress_(progress),
        context_(static_cast<int>(text.longest())),
        teacher_(original, {.context = context_, .batch_tokens = context_, .precision = Precision::exact()},
                 pool),
        pass_(trained,
              {.batch_tokens = context_,
               .context = context_,
               .recompute = o.recompute,
               .keep_weights = GradientPass::weight_bytes(trained) <= kKeptWeights},
              pool),
        divergence_(teacher_, static_cast<float>(o.temperature), pool),
        judge_(teacher_, 1, pool),
        parameters_(trained.parameters()),
        adam_(rules(parameters_, o), {.beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-12f}) {
    keep_best();
  }

  TuneReport report() {
    run(options_.steps);
    for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i]->value = best_[i];
    report_.seconds = seconds();
    report_.peak_rss = peak_rss();
    return report_;
  }

 private:
  static std::vector<AdamRule> rules(const std::vector<Parameter*>& parameters, const TuneOptions& o) {
    std::vector<AdamRule> rules;
    for (Parameter* p : parameters) {
      const bool scales = p->name.ends_with(".scales");
      rules.push_back({p, scales ? o.rate : o.zero_rate, scales, 0});
    }
    return rules;
  }
  void keep_best() {
    best_.resize(parameters_.size());
    for (size_t i = 0; i < parameters_.size(); ++i) best_[i] = parameters_[i]->value;
  }
  const Batch& batch_of(const std::vector<int32_t>& sample) {
    batch_.clear();
    batch_.add(0, 0, sample);
    return batch_;
  }

  std::optional<double> train(int step) override {
    const auto& sample = text_.samples[static_cast<size_t>(step - 1) % samples_];
    const double kl = pass_.gradients(batch_of(sample), divergence_);
    if (!std::isfinite(kl)) return std::nullopt;  // the best so far stays
    adam_.step(1 - static_cast<double>(step - 1) / options_.steps, pool_);
    report_.tokens += static_cast<int64_t>(sample.size());
    return kl;
  }
  double check(int step) override {
    double sum = 0, tokens = 0;
    Since since = Since::kChanged;
    for (size_t i = samples_; i < text_.samples.size(); ++i) {
      if (progress_ && step > 0) progress_(step, options_.steps, report_.checks.back().kl);
      const double count = static_cast<double>(text_.samples[i].size());
      sum += count * pass_.loss(batch_of(text_.samples[i]), judge_, since);
      since = Since::kUnchanged;
      tokens += count;
    }
    const double kl = sum / tokens;
    const auto better = std::min_element(report_.checks.begin(), report_.checks.end(),
                                         [](const auto& a, const auto& b) { return a.kl < b.kl; });
    if (better != report_.checks.end() && kl < better->kl) {
      keep_best();
      report_.best_step = step;
    }
    if (progress_ && step == 0) progress_(0, options_.steps, kl);
    report_.checks.push_back({step, kl});
    return kl;
  }
  void progress(int step, double kl) override {
    if (progress_) progress_(step, options_.steps, kl);
  }

  StateArrays arrays() override {
    StateArrays arrays = adam_.state();
    for (size_t i = 0; i < parameters_.size(); ++i)
      arrays.emplace_back("best." + parameters_[i]->name, &best_[i]);
    return arrays;
  }
  OrderedJson facts() const override {
    return {{"checks", to_json(report_, options_).at("checks")},
            {"best_step", report_.best_step},
            {"tokens", report_.tokens}};
  }
  void resume(int steps, const Json& facts) override {
    const std::string where = "what a stopped tuning left";
    adam_.resume_after(steps);
    for (const Json& check : json_get<Json>(facts, "checks", where))
      report_.checks.push_back(
          {json_get<int>(check, "step", where), json_get_or<double>(check, "kl", std::nan(""), where)});
    report_.best_step = json_get<int>(facts, "best_step", where);
    report_.tokens = json_get<int64_t>(facts, "tokens", where);
  }

  const TuneOptions& options_;
  const Calibration& text_;
  const size_t samples_;  // of the text; those after them are held out
  ThreadPool& pool_;
  const TuneProgress& progress_;
  const int context_;
  Session teacher_;
  GradientPass pass_;
  Divergence divergence_, judge_;
  const std::vector<Parameter*> parameters_;
  Adam adam_;
  std::vector<std::vector<float>> best_;  // values of the parameters at the best check
  Batch batch_;
  TuneReport report_;
};

}  // namespace

// Sequences of the text that are only looked at.
static size_t held_out_of(const Calibration& text, const TuneOptions& o) {
  const size_t held_out = std::min(static_cast<size_t>(o.held_out), text.samples.size() / 2);
  if (held_out == 0)
    fail("tuning needs text for two sequences of {} tokens at least; name more files", o.tokens);
  return held_out;
}

TuneReport tune(std::shared_ptr<const Model> original, TrainedModel& trained, const Calibration& text,
                const TuneOptions& o, ThreadPool& pool, const TuneProgress& progress,
                const KeepOptions& keep) {
  if (original->config.vocab_size != trained.config().vocab_size)
    fail("{}: a vocabulary of {} tokens, the original model has {}", trained.model().name(),
         trained.config().vocab_size, original->config.vocab_size);
  if (trained.parameters().empty())
    fail("{}: no layer has {} to tune", trained.model().name(), tuned_parts(o));
  return Tuning(original, trained, text, held_out_of(text, o), o, pool, progress, keep).report();
}

OrderedJson tune_directory(std::shared_ptr<const Model> original, const fs::path& dir,
                           CalibrationOptions wanted, const TuneOptions& o, ThreadPool& pool,
                           const TuneProgress& progress, KeepOptions keep,
                           const RoundingProgress& rounding_progress) {
  o.validate();
  const bool by_distributions = o.scales || o.zeros;
  wanted.samples = std::max(by_distributions ? o.steps : 0, o.rounding ? o.blocks.sequences : 0) + o.held_out;
  wanted.seqlen = std::min(o.tokens, original->config.max_context);
  ++wanted.seed;  // other places of the files than the quantizer's
  const Calibration text = load_calibration(wanted, original->load_tokenizer());
  OrderedJson report = reopen_quantized(dir);
  keep.folder = ResultDirectory(dir, kQuantizationReport).unfinished();
  const auto quantized = std::make_shared<Model>(open_checkpoint(dir));
  OrderedJson tuned = {{"parts", tuned_parts(o)}};
  bool better = false;
  QuantizedTensors rounded;
  if (o.rounding) {
    const RoundingReport learned = round_blocks(original, quantized, text, held_out_of(text, o), o.blocks,
                                                keep.folder / "rounding", pool, rounding_progress, rounded);
    tuned["rounding"] = to_json(learned, o.blocks);
    better = learned.kept();
  }
  std::vector<PackedBuffers> buffers;
  if (by_distributions) {
    TrainedModel trained(quantized, {.scales = o.scales, .zeros = o.zeros}, pool);
    const TuneReport moved = tune(std::move(original), trained, text, o, pool, progress, keep);
    tuned.update(to_json(moved, o));
    if (moved.best_step > 0) take_over(trained, *quantized, buffers, pool);
    better = better || moved.best_step > 0;
  }
  tuned["text_sha256"] = text.sha256;
  report["tune"] = tuned;
  if (better) {
    write_tuned(*quantized, o, dir);
    report["model_sha256"] = checkpoint_sha256(open_checkpoint(dir));
  }
  complete_quantized(dir, report);
  return report;
}

}  // namespace nibble
