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

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kHeadGroup = 128;  // at 8 bits, symmetric: 8.125 bits a weight

PackedFormat end_format(const Linear& end, int bits, const LayerPlan& base) {
  return {bits, bits == 8 ? kHeadGroup : base.group_size, bits == 8 || base.symmetric, end.n, end.k};
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
    if (const int64_t bad = clean_weights(weight))
      report.reason = fmt::format("{} NaN or infinite weights set to 0", bad);
    const PackedFormat format = end_format(*end, bits, base);
    const Quantized q = quantize_rtn(weight, {}, {format, 0, false, true}, pool);
    out.packed[end->name] = {format, pack(q.matrix, &pool), "rtn"};
    report.name = end->name;
    report.n = end->n;
    report.k = end->k;
    report.used = {"rtn", bits, format.group_size, format.symmetric};
    report.remainder = end->k % format.group();
    report.seconds = watch.seconds();
    out.reports.push_back(std::move(report));
  }
}

constexpr const char* kUnfinished = "unfinished";  // folder in the result's, until that is complete

void prepare_directory(const fs::path& out, bool force) {
  if (fs::exists(out)) {
    if (!fs::is_directory(out)) fail("{}: exists and is not a directory", out.string());
    const bool begun =
        std::all_of(fs::directory_iterator(out), fs::directory_iterator(),
                    [](const fs::directory_entry& entry) { return entry.path().filename() == kUnfinished; });
    if (!force && !begun) fail("{}: exists; give another name, or --force to write over it", out.string());
    fs::remove(out / kQuantizationReport);
  }
  make_directory(out);
}

// Names everything that a block's result depends on. Of the model's tensors the beginnings are read.
std::string key_of(const Model& model, const QuantizeOptions& options, const Calibration& calibration,
                   int threads) {
  constexpr size_t kBeginning = 4096;
  Sha256 hash;
  hash.update(model.checkpoint().config.dump());
  for (const auto& [name, view] : model.checkpoint().tensors) {
    hash.update(fmt::format("{} {} {}", name, dtype_name(view.dtype), view.bytes()));
    hash.update(std::span(view.data, std::min(view.bytes(), kBeginning)));
  }
  const auto describe = [&](const LayerPlan& p) {
    hash.update(fmt::format("{} {} {} {};", p.method, p.bits, p.group_size, p.symmetric));
  };
  describe(options.plan.base);
  for (const Linear* linear : model.linears()) describe(options.plan.layer(linear->name));
  const LayerOptions& l = options.layer;
  hash.update(fmt::format("{} {} {} {} {} {} {} {}", l.damp, l.act_order, l.error_limit, l.growth_limit,
                          calibration.sha256, device_name(options.device), kernels().name, threads));
  hash.update(options.version);
  return hash.hex();
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
    return options.head_bits == 16 ? static_cast<int64_t>(end.weight_bytes())
                                   : end_format(end, options.head_bits, options.plan.base).bytes();
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
  prepare_directory(out, force);
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
  BlockQuantizer quantizer(model, calibration, options.plan, options.layer, options.device, pool);
  const FinishedBlocks finished(out / kUnfinished, key_of(*model, options, calibration, pool.size()));
  QuantizedTensors tensors = quantizer.run(progress, &finished);
  quantize_ends(*model, options.head_bits, options.plan.base, pool, tensors);

  const LayerPlan& base = options.plan.base;
  const OrderedJson summary = {{"method", base.method},
                               {"bits", base.bits},
                               {"group_size", base.group_size},
                               {"symmetric", base.symmetric},
                               {"head_bits", options.head_bits},
                               {"version", options.version},
                               {"calibration_sha256", calibration.sha256}};
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
  write_file_atomically(out / kQuantizationReport, report.dump(1) + "\n");
  finished.remove();
  return report;
}

}  // namespace nibble
