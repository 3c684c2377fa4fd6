#include "quant/block_quantizer.h"

#include <algorithm>

#include "quant/scaling.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

SessionOptions session_options(const Calibration& calibration) {
  size_t longest = 1;
  for (const auto& sample : calibration.samples) longest = std::max(longest, sample.size());
  const int tokens = static_cast<int>(longest);
  return {.slots = 1, .context = tokens, .batch_tokens = tokens, .precision = {}, .expect_packed = true};
}

std::vector<float> float_weight(const Linear& linear) {
  if (linear.packed) fail("{}: already quantized; start from the original model", linear.name);
  return to_float(
      {linear.dense.dtype, {linear.n, linear.k}, static_cast<const std::byte*>(linear.dense.data)});
}

}  // namespace

BlockQuantizer::BlockQuantizer(std::shared_ptr<const Model> model, const Calibration& calibration,
                               const Plan& plan, const LayerOptions& options, ThreadPool& pool)
    : model_(std::move(model)),
      calibration_(calibration),
      plan_(plan),
      options_(options),
      pool_(pool),
      session_(model_, session_options(calibration), pool) {
  const ModelConfig& c = model_->config;
  const size_t tokens = static_cast<size_t>(calibration.tokens),
               longest = static_cast<size_t>(session_.options().context);
  stream_.resize(tokens * static_cast<size_t>(c.hidden_size));
  attended_.resize(tokens * static_cast<size_t>(c.query_size()));
  x_.resize(longest * static_cast<size_t>(c.hidden_size));
  inner_.resize(longest * static_cast<size_t>(c.intermediate_size));
  projected_.resize(longest * static_cast<size_t>(c.hidden_size));
}

QuantizedTensors BlockQuantizer::run(const BlockProgress& progress) {
  for_each_sample([&](const Batch& batch, int64_t, float* h, float*) {
    session_.check(batch);
    session_.embed(batch, h);
  });
  const int total = model_->config.n_layers;
  for (int layer = 0; layer < total; ++layer) {
    if (progress) progress(layer, total);
    quantize_block(layer);
  }
  if (progress) progress(total, total);
  return std::move(out_);
}

void BlockQuantizer::for_each_sample(const SampleFn& body) {
  const ModelConfig& c = model_->config;
  float *h = stream_.data(), *a = attended_.data();
  Batch batch;
  for (const auto& sample : calibration_.samples) {
    batch.clear();
    batch.add(0, 0, sample);
    body(batch, static_cast<int64_t>(sample.size()), h, a);
    h += static_cast<int64_t>(sample.size()) * c.hidden_size;
    a += static_cast<int64_t>(sample.size()) * c.query_size();
  }
}

InputStatistics BlockQuantizer::collect(
    int64_t k, const std::function<const float*(const Batch&, int64_t, float*, float*)>& input) {
  StatisticsCollector collector(k, calibration_.tokens, pool_);
  for_each_sample([&](const Batch& batch, int64_t rows, float* h, float* a) {
    collector.add(input(batch, rows, h, a), rows);
  });
  return collector.finish();
}

void BlockQuantizer::quantize_block(int layer) {
  const ModelConfig& c = model_->config;
  Block block = model_->blocks[static_cast<size_t>(layer)];
  const TensorNames& names = model_->architecture().names;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const bool parallel = c.parallel_block;

  Fold from_attn_norm{&block.attn_norm, prefix + names.attn_norm, nullptr, 1};
  std::vector<Linear*> readers = {&block.q, &block.k, &block.v};
  const std::vector<Linear*> mlp_readers =
      c.has_gate() ? std::vector<Linear*>{&block.gate, &block.up} : std::vector<Linear*>{&block.up};
  if (parallel) readers.insert(readers.end(), mlp_readers.begin(), mlp_readers.end());
  const auto normed = [&](const Norm& norm, const float* h, int64_t rows) {
    session_.norm(norm, h, x_.data(), rows);
    return static_cast<const float*>(x_.data());
  };
  quantize_group(readers,
                 collect(c.hidden_size, [&](const Batch&, int64_t rows, float* h,
                                            float*) { return normed(block.attn_norm, h, rows); }),
                 from_attn_norm, {&block.q, &block.k});

  quantize_group({&block.o},
                 collect(c.query_size(),
                         [&](const Batch& batch, int64_t rows, float* h, float* a) {
                           session_.attention(block, layer, batch, normed(block.attn_norm, h, rows), a);
                           return a;
                         }),
                 {nullptr, "", &block.v, c.n_heads / c.n_kv_heads});

  const auto add_attention = [&](int64_t rows, float* h, const float* a) {
    session_.linear(block.o, a, projected_.data(), rows);
    session_.add(h, projected_.data(), rows * c.hidden_size);
  };
  const Norm& mlp_norm = parallel ? block.attn_norm : block.mlp_norm;
  if (!parallel) {
    quantize_group(mlp_readers,
                   collect(c.hidden_size,
                           [&](const Batch&, int64_t rows, float* h, float* a) {
                             add_attention(rows, h, a);
                             return normed(mlp_norm, h, rows);
                           }),
                   {&block.mlp_norm, prefix + names.mlp_norm, nullptr, 1});
  }
  const auto inner = [&](int64_t rows, const float* h) {
    session_.mlp_inner(block, normed(mlp_norm, h, rows), inner_.data(), rows);
    return static_cast<const float*>(inner_.data());
  };
  // Scales pass through the gate's product, but not through GELU.
  quantize_group({&block.down},
                 collect(c.intermediate_size,
                         [&](const Batch&, int64_t rows, float* h, float*) { return inner(rows, h); }),
                 c.has_gate() ? Fold{nullptr, "", &block.up, 1} : Fold{});

  for_each_sample([&](const Batch&, int64_t rows, float* h, float* a) {
    session_.linear(block.down, inner(rows, h), projected_.data(), rows);
    session_.add(h, projected_.data(), rows * c.hidden_size);
    if (parallel) add_attention(rows, h, a);
  });
}

std::vector<int> BlockQuantizer::channel_map(const Fold& fold, int64_t k) const {
  std::vector<int> map(static_cast<size_t>(k));
  const int dim = model_->config.head_dim;
  for (int i = 0; i < static_cast<int>(k); ++i)
    map[static_cast<size_t>(i)] = fold.repeats == 1 ? i : i / dim / fold.repeats * dim + i % dim;
  return map;
}

void BlockQuantizer::quantize_group(const std::vector<Linear*>& linears, const InputStatistics& input,
                                    const Fold& fold, const std::set<const Linear*>& unclipped) {
  std::vector<std::vector<float>> weights;
  std::vector<LayerPlan> plans;
  std::vector<ScaledLinear> searched;
  std::vector<std::optional<double>> rtn_errors;
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
    const PackedFormat format{plan.bits, plan.group_size, plan.symmetric, linears[i]->n, input.k};
    format.validate();
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
    layer.report.scale_exponent = scales.exponent;
    if (scaled && !layer.matrix) out_.floats[linears[i]->name + ".weight"] = weights[i];
    install(*linears[i], std::move(layer));
  }
  if (scaled) fold_into(fold, scales.scale);
}

void BlockQuantizer::install(Linear& linear, QuantizedLayer layer) {
  if (layer.matrix) {
    auto& packed = out_.packed[linear.name];
    packed = {layer.matrix->format, pack(*layer.matrix), layer.report.used.method};
    linear.packed = packed.buffers.view(packed.format);
    linear.dense.data = nullptr;
  } else if (const auto rescaled = out_.floats.find(linear.name + ".weight"); rescaled != out_.floats.end()) {
    linear.dense = {DType::kF32, rescaled->second.data(), linear.n, linear.k};
  }
  out_.reports.push_back(std::move(layer.report));
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
  const PackedFormat& f = packed.format;
  for (int64_t row = 0; row < f.n; ++row) {
    for (int64_t g = 0; g < f.groups(); ++g) {
      uint16_t& stored = packed.buffers.scales[static_cast<size_t>(
          (row / kPanelRows * f.groups() + g) * kPanelRows + row % kPanelRows)];
      stored = float_to_fp16(fp16_to_float(stored) / scale[static_cast<size_t>(row)]);
    }
    if (!rows.bias.empty()) rows.bias[static_cast<size_t>(row)] /= scale[static_cast<size_t>(row)];
  }
  if (!rows.bias.empty()) out_.floats[rows.name + ".bias"] = rows.bias;
}

}  // namespace nibble
