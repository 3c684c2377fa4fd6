#include "quant/quantize.h"

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/memory_usage.h"
#include "base/sha256.h"
#include "base/stopwatch.h"
#include "kernels/dense_rows.h"
#include "model/facts.h"
#include "quant/methods.h"
#include "quant/nibble_writer.h"
#include "quant/result_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kHeadGroup = 128;  // at 8 bits, symmetric: 8.125 bits a weight

LayerPlan end_plan(int bits, const LayerPlan& base) {
  if (bits == 8) return {"rtn", bits, kHeadGroup, true, 16};
  return {"rtn", bits, base.group_size, base.symmetric, base.scale_bits};
}

// Embedding and head, rounded: they see no calibration and their rows are looked up one by one.
void quantize_ends(const Model& model, int bits, const LayerPlan& base, ThreadPool& pool,
                   QuantizedTensors& out) {
  if (bits == 16) return;
  std::vector<const Linear*> ends = {&model.embedding};
  if (!model.config.tied_head) ends.push_back(&model.head);
  for (const Linear* end : ends) {
    const Stopwatch watch;
    if (end->packed) fail("{}: already quantized; start from the original model", end->name);
    std::vector<float> weight = dense_values(end->dense);
    LayerReport report;
    const LayerPlan plan = end_plan(bits, base);
    if (const int64_t bad = clean_weights(weight))
      report.reason = fmt::format("{} NaN or infinite weights set to 0", bad);
    const PackedFormat format = plan.format(end->n, end->k);
    const Quantized q = quantize_rtn(weight, {}, {format, 0, false, true}, pool);
    out.packed[end->name] = {format, pack(q.matrix, &pool), "rtn"};
    report.name = end->name;
    report.n = end->n;
    report.k = end->k;
    report.used = plan;
    report.remainder = end->k % format.group();
    report.seconds = watch.seconds();
    out.reports.push_back(std::move(report));
  }
}

// Names everything that a block's result depends on.
std::string key_of(const Model& model, const QuantizeOptions& options, const Calibration& calibration,
                   int threads) {
  Sha256 hash;
  hash.update(checkpoint_outline_sha256(model.checkpoint()));
  const auto describe = [&](const LayerPlan& p) {
    hash.update(fmt::format("{} {} {} {} {};", p.method, p.bits, p.group_size, p.symmetric, p.scale_bits));
  };
  describe(options.plan.base);
  for (const Linear* linear : model.linears()) describe(options.plan.layer(linear->name));
  const LayerOptions& l = options.layer;
  hash.update(fmt::format("{} {} {} {} {} {} {} {}", l.damp, l.act_order, l.error_limit, l.growth_limit,
                          calibration.sha256, device_name(options.device), kernels().name, threads));
  hash.update(options.version);
  return hash.hex();
}

// What waits in the unfinished folder until the result is complete: the report, and what it is of.
fs::path waiting_report(const ResultDirectory& result) { return result.unfinished() / "quantized.json"; }

void write_waiting(const ResultDirectory& result, const std::string& key, const OrderedJson& report) {
  make_directory(result.unfinished());
  write_file_atomically(waiting_report(result), OrderedJson{{"key", key}, {"report", report}}.dump(1) + "\n");
}

// The report of a result that only waits for its completion. None when its weights have other settings or
// were replaced already.
std::optional<OrderedJson> read_waiting(const ResultDirectory& result, const std::string& key,
                                        const fs::path& out) {
  if (!fs::exists(waiting_report(result))) return std::nullopt;
  const OrderedJson waiting = OrderedJson::parse(read_file(waiting_report(result)));
  if (waiting.at("key") == key &&
      waiting.at("report").at("model_sha256") == checkpoint_sha256(open_checkpoint(out)))
    return waiting.at("report");
  fs::remove(waiting_report(result));
  return std::nullopt;
}

bool needs_calibration(const Model& model, const Plan& plan) {
  const auto linears = model.linears();
  return std::any_of(linears.begin(), linears.end(), [&](const Linear* l) {
    const LayerPlan layer = plan.layer(l->name);
    return layer.bits < 16 && find_method(layer.method).needs_calibration;
  });
}

}  // namespace

void QuantizeOptions::validate() const {
  plan.validate();
  if (head_bits != 16 && !is_packed_bits(head_bits))
    throw UsageError(fmt::format("--head-bits {}: 2, 3, 4, 6, 8 and 16 are possible", head_bits));
  if (!(layer.damp >= 0) || !(layer.damp <= 1))
    throw UsageError(fmt::format("--damp {}: expected 0 to 1", layer.damp));
  if (calibration.samples < 1 || calibration.samples > 1 << 16)
    throw UsageError(fmt::format("--samples {}: expected 1 to 65536", calibration.samples));
  if (calibration.seqlen < 2 || calibration.seqlen > 1 << 16)
    throw UsageError(fmt::format("--seqlen {}: expected 2 to 65536", calibration.seqlen));
}

int64_t bytes_beside_linears(const Model& model, const QuantizeOptions& options) {
  constexpr int64_t kDescription = 512;  // of a linear's tensors in the file's header, padding included
  const auto end_bytes = [&](const Linear& end) {
    return options.head_bits == 16
               ? static_cast<int64_t>(end.weight_bytes())
               : end_plan(options.head_bits, options.plan.base).format(end.n, end.k).bytes();
  };
  int64_t total = end_bytes(model.embedding) + (model.config.tied_head ? 0 : end_bytes(model.head));
  std::set<std::string> weights = {model.embedding.name + ".weight", model.head.name + ".weight"};
  for (const Linear* linear : model.linears()) {
    weights.insert(linear->name + ".weight");
    total += kDescription;
  }
  for (const auto& [name, view] : model.checkpoint().tensors) {
    if (!weights.contains(name)) total += static_cast<int64_t>(view.bytes()) + kDescription;
  }
  return total;
}

OrderedJson quantize_model(std::shared_ptr<const Model> model, const QuantizeOptions& options,
                           const fs::path& out, bool force, ThreadPool& pool, const BlockProgress& progress) {
  const Stopwatch watch;
  options.validate();
  const ResultDirectory result(out, kQuantizationReport);
  result.begin(force);
  CalibrationOptions wanted = options.calibration;
  wanted.seqlen = std::min(wanted.seqlen, model->config.max_context);
  // A method without calibration still reports its output error on the text when there is some.
  const bool have_text = !wanted.files.empty();
  if (!have_text && needs_calibration(*model, options.plan))
    fail("calibration text is needed: name files with --calibration");
  Calibration calibration;
  if (have_text) {
    calibration = load_calibration(wanted, model->load_tokenizer());
  }
  const std::string key = key_of(*model, options, calibration, pool.size());
  const std::string whole_key = fmt::format("{} {}", key, options.head_bits);
  if (const auto waiting = read_waiting(result, whole_key, out); waiting && options.to_complete)
    return *waiting;
  BlockQuantizer quantizer(model, calibration, options.plan, options.layer, options.device, pool);
  const FinishedBlocks finished(result.unfinished(), key);
  QuantizedTensors tensors = quantizer.run(progress, &finished);
  quantize_ends(*model, options.head_bits, options.plan.base, pool, tensors);

  const LayerPlan& base = options.plan.base;
  const OrderedJson summary = {{"method", base.method},         {"bits", base.bits},
                               {"group_size", base.group_size}, {"symmetric", base.symmetric},
                               {"scale_bits", base.scale_bits}, {"head_bits", options.head_bits},
                               {"version", options.version},    {"calibration_sha256", calibration.sha256}};
  write_nibble_directory(*model, tensors, summary, out);

  const Model quantized(open_checkpoint(out));
  const Checkpoint& written = quantized.checkpoint();
  OrderedJson report = summary;
  report["device"] = device_name(options.device);
  report["model"] = model->name();
  report["model_sha256"] = checkpoint_sha256(written);
  OrderedJson sources = OrderedJson::array();
  for (const auto& source : calibration.sources)
    sources.push_back({{"file", source.file}, {"samples", source.samples}});
  report["calibration"] = {{"samples", calibration.samples.size()}, {"seqlen", wanted.seqlen},
                           {"tokens", calibration.tokens},          {"seed", wanted.seed},
                           {"sha256", calibration.sha256},          {"sources", sources}};
  OrderedJson linears = OrderedJson::array();
  for (const LayerReport& layer : tensors.reports) linears.push_back(to_json(layer));
  report["linears"] = std::move(linears);
  OrderedJson warnings = OrderedJson::array();
  if (have_text && static_cast<int>(calibration.samples.size()) < wanted.samples)
    warnings.push_back(fmt::format("the calibration files held {} samples of {} tokens, {} were asked for",
                                   calibration.samples.size(), wanted.seqlen, wanted.samples));
  report["warnings"] = std::move(warnings);
  const double bits = static_cast<double>(written.file_bytes) * 8 / static_cast<double>(model->parameters());
  const OrderedJson parts = parts_json(model_facts(quantized));
  report["totals"] = {
      {"file_bytes", written.file_bytes}, {"bits_per_weight", bits}, {"parameters", model->parameters()},
      {"peak_rss", peak_rss_bytes()},     {"parts", parts},          {"seconds", watch.seconds()}};
  if (options.planned) {
    report["plan"] = to_json(*options.planned);
    write_file_atomically(out / "plan.toml", to_toml(*options.planned));
  }
  if (options.to_complete) {
    write_waiting(result, whole_key, report);
  } else {
    result.finish(report.dump(1) + "\n");
  }
  return report;
}

OrderedJson reopen_quantized(const fs::path& dir) {
  const ResultDirectory result(dir, kQuantizationReport);
  if (!fs::exists(waiting_report(result))) {
    write_waiting(result, "", OrderedJson::parse(read_file(dir / kQuantizationReport)));
    fs::remove(dir / kQuantizationReport);
  }
  return OrderedJson::parse(read_file(waiting_report(result))).at("report");
}

void complete_quantized(const fs::path& dir, const OrderedJson& report) {
  ResultDirectory(dir, kQuantizationReport).finish(report.dump(1) + "\n");
}

}  // namespace nibble
