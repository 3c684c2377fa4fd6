#include "quant/block_quantizer.h"

#include <algorithm>

#include "kernels/dense_rows.h"
#include "quant/feed_forward.h"
#include "quant/scaling.h"

namespace nibble {
namespace {

constexpr size_t kSamplesAHeldOut = 16;  // of as many one is held out

std::vector<float> float_weight(const Linear& linear) {
  if (linear.packed) fail("{}: already quantized; start from the original model", linear.name);
  return dense_values(linear.dense);
}

}  // namespace

BlockQuantizer::BlockQuantizer(std::shared_ptr<const Model> model, const Calibration& calibration,
                               const Plan& plan, const LayerOptions& options, Device device, ThreadPool& pool)
    : model_(std::move(model)),
      calibration_(calibration),
      plan_(plan),
      options_(options),
      pool_(pool),
      compute_(open_compute(device, model_, static_cast<int>(calibration.longest()), pool)) {
  const ModelConfig& c = model_->config;
  const int64_t tokens = calibration.tokens, longest = static_cast<int64_t>(calibration.longest()),
                hidden = c.hidden_size, inner = c.intermediate_size, query = c.query_size();
  const auto make = [&](float*& to, int64_t rows, int64_t width) { to = compute_->allocate(rows * width); };
  make(stream_, tokens, hidden);
  make(attended_, tokens, query);
  make(x_, longest, hidden);
  make(inner_, longest, inner);
  make(projected_, longest, hidden);
  const auto linears = model_->linears();
  feeds_forward_ =
      std::any_of(linears.begin(), linears.end(), [&](const Linear* l) { return feeds_forward(*l); });
  if (feeds_forward_) {
    make(reference_stream_, tokens, hidden);
    make(reference_x_, longest, hidden);
    make(reference_a_, longest, query);
    make(reference_inner_, longest, inner);
    make(target_, longest, hidden);
  }
  held_out_from_ = calibration.samples.size() - calibration.samples.size() / kSamplesAHeldOut;
}

QuantizedTensors BlockQuantizer::run(const BlockProgress& progress, const FinishedBlocks* finished) {
  for_each_sample([&](const Rows& s) {
    compute_->embed(s.batch, s.h);
    if (s.r) compute_->copy(s.r, s.h, s.count * model_->config.hidden_size);
  });
  const int total = model_->config.n_layers;
  for (int layer = 0; layer < total; ++layer) {
    if (progress) progress(layer, total);
    if (auto done = finished ? finished->load(layer) : std::nullopt) {
      take_over(layer, std::move(*done));
    } else {
      const size_t first_report = out_.reports.size();
      quantize_block(layer);
      if (finished) finished->save(layer, out_, first_report);
    }
    for (const Linear* linear : model_->blocks[static_cast<size_t>(layer)].linears()) {
      if (linear->present())
        release_pages(model_->checkpoint(),
                      {static_cast<const std::byte*>(linear->dense.data), linear->weight_bytes()});
    }
  }
  if (progress) progress(total, total);
  return std::move(out_);
}

void BlockQuantizer::for_each_sample(const std::function<void(const Rows&)>& body) {
  const ModelConfig& c = model_->config;
  float *h = stream_, *a = attended_, *r = reference_stream_;
  Batch batch;
  for (size_t i = 0; i < calibration_.samples.size(); ++i) {
    const auto& sample = calibration_.samples[i];
    const int64_t count = static_cast<int64_t>(sample.size());
    batch.clear();
    batch.add(0, 0, sample);
    body({batch, count, h, a, r, i >= held_out_from_});
    h += count * c.hidden_size;
    a += count * c.query_size();
    if (r) r += count * c.hidden_size;
  }
}

InputStatistics BlockQuantizer::collect(const std::vector<Linear*>& linears, int64_t n,
                                        const std::function<Observed(const Rows&)>& input) {
  const bool gram = std::any_of(linears.begin(), linears.end(), [&](const Linear* l) {
    const LayerPlan plan = plan_.layer(l->name);
    return plan.bits < 16 && find_method(plan.method).needs_calibration;
  });
  int64_t held_out = 0;
  for (size_t i = held_out_from_; i < calibration_.samples.size(); ++i)
    held_out += static_cast<int64_t>(calibration_.samples[i].size());
  const int64_t k = linears.front()->k;
  StatisticsCollector collector(k, calibration_.tokens - held_out, compute_->sums(k, n, gram), held_out, n);
  for_each_sample([&](const Rows& s) {
    const Observed seen = input(s);
    s.held_out ? collector.hold_out(seen, s.count) : collector.add(seen, s.count);
  });
  InputStatistics seen = collector.finish();
  seen.card = compute_->card();
  return seen;
}

bool BlockQuantizer::feeds_forward(const Linear& linear) const {
  const LayerPlan plan = plan_.layer(linear.name);
  return plan.bits < 16 && find_method(plan.method).feeds_forward;
}

const float* BlockQuantizer::normed(const Norm& norm, const float* h, int64_t rows, float* out) {
  compute_->norm(norm, h, out, rows);
  return out;
}

const float* BlockQuantizer::target(const Rows& s, const std::vector<float>& bias) {
  compute_->subtract(s.r, s.h, bias, s.count, model_->config.hidden_size, target_);
  return target_;
}

void BlockQuantizer::advance(const Block& b, int layer, const Rows& s, const Stream& stream) {
  const ModelConfig& c = model_->config;
  const auto add_projected = [&](const Linear& linear, const float* x) {
    compute_->linear(linear, x, projected_, s.count);
    compute_->add(stream.h, projected_, s.count * c.hidden_size);
  };
  const float* x = normed(b.attn_norm, stream.h, s.count, stream.x);
  compute_->attention(b, layer, s.batch, x, stream.attended);
  add_projected(b.o, stream.attended);
  if (!c.parallel_block) x = normed(b.mlp_norm, stream.h, s.count, stream.x);
  compute_->mlp_inner(b, x, stream.inner, s.count);
  add_projected(b.down, stream.inner);
}

void BlockQuantizer::quantize_block(int layer) {
  const ModelConfig& c = model_->config;
  const Block& reference = model_->blocks[static_cast<size_t>(layer)];
  Block block = reference;
  compute_->weights_changed();  // the last block lay at the same address
  const TensorNames& names = model_->architecture().names;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const bool parallel = c.parallel_block;
  const Norm& mlp_norm = parallel ? block.attn_norm : block.mlp_norm;
  const int64_t hidden = c.hidden_size;

  std::vector<Linear*> readers = {&block.q, &block.k, &block.v};
  const std::vector<Linear*> mlp_readers =
      c.has_gate() ? std::vector<Linear*>{&block.gate, &block.up} : std::vector<Linear*>{&block.up};
  if (parallel) readers.insert(readers.end(), mlp_readers.begin(), mlp_readers.end());
  // The inputs of linears that read a norm, in both streams.
  const auto both_normed = [&](const Rows& s, const Norm& norm, const Norm& unquantized) -> Observed {
    return {normed(norm, s.h, s.count, x_), s.r ? normed(unquantized, s.r, s.count, reference_x_) : nullptr};
  };
  quantize_group(readers,
                 collect(readers, 0,
                         [&](const Rows& s) { return both_normed(s, block.attn_norm, reference.attn_norm); }),
                 {&block.attn_norm, prefix + names.attn_norm, nullptr, 1}, {&block.q, &block.k});

  // o is to bring the residual stream back to the unquantized one's; in a parallel block, where
  // the MLP adds to the same stream, to what o gives there.
  const auto attended = [&](const Rows& s) -> Observed {
    compute_->attention(block, layer, s.batch, normed(block.attn_norm, s.h, s.count, x_), s.a);
    if (!s.r) return {s.a};
    compute_->attention(reference, layer, s.batch, normed(reference.attn_norm, s.r, s.count, reference_x_),
                        reference_a_);
    if (parallel) return {s.a, reference_a_};
    compute_->linear(reference.o, reference_a_, projected_, s.count);
    compute_->add(s.r, projected_, s.count * hidden);
    return {s.a, nullptr, target(s, block.o.bias)};
  };
  const bool scaled = quantize_group({&block.o}, collect({&block.o}, hidden, attended),
                                     {nullptr, "", &block.v, c.n_heads / c.n_kv_heads});
  if (scaled) {  // v now gives less of a channel
    for_each_sample([&](const Rows& s) {
      compute_->attention(block, layer, s.batch, normed(block.attn_norm, s.h, s.count, x_), s.a);
    });
  }

  const auto add_attention = [&](const Rows& s) {
    compute_->linear(block.o, s.a, projected_, s.count);
    compute_->add(s.h, projected_, s.count * hidden);
  };
  if (!parallel) {
    quantize_group(mlp_readers,
                   collect(mlp_readers, 0,
                           [&](const Rows& s) {
                             add_attention(s);
                             return both_normed(s, block.mlp_norm, reference.mlp_norm);
                           }),
                   {&block.mlp_norm, prefix + names.mlp_norm, nullptr, 1});
  }
  const auto inner = [&](const Rows& s) {
    compute_->mlp_inner(block, normed(mlp_norm, s.h, s.count, x_), inner_, s.count);
    return inner_;
  };
  const auto for_down = [&](const Rows& s) -> Observed {
    const float* x = inner(s);
    compute_->keep(x, s.count * c.intermediate_size);
    if (!s.r) return {x};
    if (parallel) {
      advance(reference, layer, s, reference_stream(s));
      const float* wanted = target(s, block.down.bias);
      compute_->linear(block.o, s.a, projected_, s.count);
      compute_->subtract(wanted, projected_, {}, s.count, hidden, target_);
      return {x, nullptr, wanted};
    }
    compute_->mlp_inner(reference, normed(reference.mlp_norm, s.r, s.count, reference_x_), reference_inner_,
                        s.count);
    compute_->linear(reference.down, reference_inner_, projected_, s.count);
    compute_->add(s.r, projected_, s.count * hidden);
    return {x, nullptr, target(s, block.down.bias)};
  };
  // Scales pass through the gate's product, but not through GELU.
  const bool rescaled = quantize_group({&block.down}, collect({&block.down}, hidden, for_down),
                                       c.has_gate() ? Fold{nullptr, "", &block.up, 1} : Fold{});
  if (rescaled) compute_->forget();  // up now gives less of a channel

  for_each_sample([&](const Rows& s) {
    if (!block.down.packed || !compute_->recall(inner_, s.count * c.intermediate_size)) inner(s);
    if (parallel) add_attention(s);
    compute_->linear(block.down, inner_, projected_, s.count);
    compute_->add(s.h, projected_, s.count * hidden);
  });
  compute_->forget();
}

std::vector<int> BlockQuantizer::channel_map(const Fold& fold, int64_t k) const {
  std::vector<int> map(static_cast<size_t>(k));
  const int dim = model_->config.head_dim;
  for (int i = 0; i < static_cast<int>(k); ++i)
    map[static_cast<size_t>(i)] = fold.repeats == 1 ? i : i / dim / fold.repeats * dim + i % dim;
  return map;
}

bool BlockQuantizer::quantize_group(const std::vector<Linear*>& linears, const InputStatistics& input,
                                    const Fold& fold, const std::set<const Linear*>& unclipped) {
  std::vector<std::vector<float>> weights;
  std::vector<LayerPlan> plans;
  std::vector<ScaledLinear> searched;
  std::vector<std::optional<double>> rtn_errors;
  std::vector<double> shares(linears.size());
  for (const Linear* linear : linears) {
    weights.push_back(float_weight(*linear));
    plans.push_back(plan_.layer(linear->name));
  }
  for (size_t i = 0; i < linears.size(); ++i) {
    std::vector<float> clean = weights[i];
    clean_weights(clean);
    const LayerPlan& plan = plans[i];
    if (plan.bits == 16) {
      rtn_errors.push_back(std::nullopt);
      continue;
    }
    const PackedFormat format = plan.format(linears[i]->n, input.k);
    format.validate();
    if (feeds_forward(*linears[i])) {
      shares[i] = feed_forward(clean, linears[i]->n, input, options_.damp, pool_);
      if (shares[i] > 0) weights[i] = clean;
    }
    rtn_errors.push_back(rounding_error(clean, format, input, pool_));
    if (find_method(plan.method).scales_inputs) {
      clean_weights(weights[i]);
      searched.push_back({weights[i], format});
    }
  }
  const bool can_fold = fold.norm || (fold.rows && fold.rows->packed);
  ChannelScales scales;
  std::vector<int> channel_of;
  if (!searched.empty() && can_fold) {
    channel_of = channel_map(fold, input.k);
    const int channels = fold.norm ? static_cast<int>(input.k) : static_cast<int>(fold.rows->n);
    scales = search_scales(searched, input, channel_of, channels, pool_);
  }
  const bool scaled = !scales.identity();
  const InputStatistics seen = scaled ? divide_input(input, channel_of, scales) : InputStatistics{};
  for (size_t i = 0; i < linears.size(); ++i) {
    if (scaled) scale_inputs(weights[i], channel_of, scales);
    LayerOptions options = options_;
    options.clip = !unclipped.contains(linears[i]);
    QuantizedLayer layer = quantize_layer(linears[i]->name, weights[i], linears[i]->n, scaled ? seen : input,
                                          plans[i], rtn_errors[i], options, pool_);
    layer.report.scaled = scaled;
    layer.report.fed_forward = shares[i];
    layer.report.scale_exponent = scales.exponent;
    if (scaled && !layer.matrix) out_.floats[linears[i]->name + ".weight"] = weights[i];
    install(*linears[i], std::move(layer));
  }
  if (scaled) fold_into(fold, scales.scale);
  compute_->weights_changed();
  return scaled;
}

void BlockQuantizer::install(Linear& linear, QuantizedLayer layer) {
  if (layer.matrix) {
    auto& packed = out_.packed[linear.name];
    packed = {layer.matrix->format, pack(*layer.matrix, &pool_), layer.report.used.method};
  }
  place(linear);
  out_.reports.push_back(std::move(layer.report));
}

void BlockQuantizer::place(Linear& linear) {
  if (const auto packed = out_.packed.find(linear.name); packed != out_.packed.end()) {
    linear.packed = packed->second.buffers.view(packed->second.format);
    linear.dense.data = nullptr;
  } else if (const auto rescaled = out_.floats.find(linear.name + ".weight"); rescaled != out_.floats.end()) {
    linear.dense = {DType::kF32, rescaled->second.data(), linear.n, linear.k};
  }
}

void BlockQuantizer::fold_into(const Fold& fold, const std::vector<float>& scale) {
  if (fold.norm) {
    for (size_t c = 0; c < scale.size(); ++c) {
      fold.norm->weight[c] /= scale[c];
      if (!fold.norm->bias.empty()) fold.norm->bias[c] /= scale[c];
    }
    out_.floats[fold.norm_name + ".weight"] = fold.norm->weight;
    if (!fold.norm->bias.empty()) out_.floats[fold.norm_name + ".bias"] = fold.norm->bias;
    return;
  }
  Linear& rows = *fold.rows;
  auto& packed = out_.packed.at(rows.name);
  QuantizedMatrix matrix = unpack(packed.buffers.view(packed.format));
  PackedFormat& f = matrix.format;
  if (f.scale_type == ScaleType::kByte) {
    f.scale_type = ScaleType::kF16;
    LayerReport& report = *std::find_if(out_.reports.rbegin(), out_.reports.rend(),
                                        [&](const LayerReport& r) { return r.name == rows.name; });
    report.used.scale_bits = 16;
    report.reason += fmt::format("{}scales of channels went into its own, for which bytes are too coarse",
                                 report.reason.empty() ? "" : "; ");
  }
  for (int64_t row = 0; row < f.n; ++row) {
    for (int64_t g = 0; g < f.groups(); ++g)
      matrix.scales[static_cast<size_t>(row * f.groups() + g)] /= scale[static_cast<size_t>(row)];
    if (!rows.bias.empty()) rows.bias[static_cast<size_t>(row)] /= scale[static_cast<size_t>(row)];
  }
  packed.format = f;
  packed.buffers = pack(matrix, &pool_);
  place(rows);
  if (!rows.bias.empty()) out_.floats[rows.name + ".bias"] = rows.bias;
}

}  // namespace nibble
