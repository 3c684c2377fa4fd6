#include "train/parameters.h"

#include <algorithm>
#include <cmath>

#include "kernels/dense_rows.h"
#include "quant/linalg.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

void train(Parameter& p) { p.gradient.assign(p.value.size(), 0.0f); }

TrainedNorm trained_norm(const Norm& norm, const std::string& name, const TrainedParts& parts) {
  TrainedNorm out{{name + ".weight", norm.weight, {}}, {name + ".bias", norm.bias, {}}};
  if (parts.everything) {
    train(out.weight);
    train(out.bias);
  }
  return out;
}

// Σ a[i]·(codes[i] − zero) and Σ a[i], in eight sums side by side.
struct GroupSums {
  float weighted = 0, plain = 0;
};
GroupSums group_sums(const float* a, const uint8_t* codes, float zero, int64_t count) {
  constexpr int kLanes = 8;
  float weighted[kLanes] = {}, plain[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      weighted[j] += a[i + j] * (static_cast<float>(codes[i + j]) - zero);
      plain[j] += a[i + j];
    }
  }
  for (int j = 0; i < count; ++i, ++j) {
    weighted[j] += a[i] * (static_cast<float>(codes[i]) - zero);
    plain[j] += a[i];
  }
  GroupSums sums;
  for (int j = 0; j < kLanes; ++j) {
    sums.weighted += weighted[j];
    sums.plain += plain[j];
  }
  return sums;
}

}  // namespace

TrainedLinear::TrainedLinear(const Linear& source, const TrainedParts& parts, bool in_block, Random& random,
                             ThreadPool& pool)
    : source_(&source), parts_(parts) {
  const size_t rows = static_cast<size_t>(source.n), columns = static_cast<size_t>(source.k);
  bias = {source.name + ".bias", source.bias, {}};
  if (source.packed) {
    if (parts.everything)
      fail("{}: quantized weights cannot be trained; start from the original model", source.name);
    const PackedView& view = *source.packed;
    const size_t groups = static_cast<size_t>(view.format.groups());
    codes_ = AlignedBuffer<uint8_t>(rows * columns);
    scales = {source.name + ".scales", std::vector<float>(rows * groups), {}};
    zeros = {source.name + ".zeros", std::vector<float>(rows * groups), {}};
    pool.parallel_for(rows, 16, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        unpack_row(view, static_cast<int64_t>(r), codes_.data() + r * columns);
        for (size_t g = 0; g < groups; ++g) {
          const int64_t row = static_cast<int64_t>(r), group = static_cast<int64_t>(g);
          scales.value[r * groups + g] = packed_scale(view, row, group);
          zeros.value[r * groups + g] = static_cast<float>(packed_zero(view, row, group));
        }
      }
    });
    units_ = scale_units(scales.value, view.format);
    if (parts.scales && in_block) train(scales);
    if (parts.zeros && in_block && !view.format.symmetric) train(zeros);
  } else if (parts.everything) {
    weight = {source.name + ".weight", dense_values(source.dense), {}};
    train(weight);
    train(bias);
  }
  if (parts.adapter_rank > 0 && in_block) {
    const size_t rank = static_cast<size_t>(parts.adapter_rank);
    a = {source.name + ".lora_A.weight", std::vector<float>(rank * columns), {}};
    b = {source.name + ".lora_B.weight", std::vector<float>(rows * rank), {}};
    // As peft draws it: uniform within 1/√k (Kaiming with a = √5).
    const double bound = 1.0 / std::sqrt(static_cast<double>(columns));
    for (float& x : a.value) x = static_cast<float>((2 * random.uniform() - 1) * bound);
    train(a);
    train(b);
  }
}

float TrainedLinear::stored_scale(size_t i) const {
  const float s = scales.value[i];
  if (!parts_.round_to_stored) return s;
  return rounded_scale(s, format().scale_type, units_[i / static_cast<size_t>(format().groups())]);
}

float TrainedLinear::stored_zero(size_t i) const {
  const float z = zeros.value[i];
  if (!parts_.round_to_stored) return z;
  return std::clamp(std::nearbyint(z), 0.0f, static_cast<float>(format().max_zero()));
}

QuantizedMatrix TrainedLinear::stored() const {
  QuantizedMatrix m(format());
  std::copy_n(codes_.data(), codes_.size(), m.codes.data());
  for (size_t i = 0; i < m.scales.size(); ++i) {
    m.scales[i] = stored_scale(i);
    m.zeros[i] = static_cast<uint8_t>(stored_zero(i));
  }
  return m;
}

void TrainedLinear::rows(int64_t first, int64_t count, float* out) const {
  const int64_t k = source_->k, size = count * k;
  if (!weight.value.empty()) {
    std::copy_n(weight.value.data() + first * k, size, out);
    return;
  }
  if (!source_->packed) {
    dense_rows(source_->dense, first, count, out);
    return;
  }
  const PackedFormat& f = format();
  const int64_t group = f.group(), groups = f.groups();
  std::vector<float> ordered(source_->order ? static_cast<size_t>(k) : 0);
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* codes = codes_.data() + (first + r) * k;
    float* to = source_->order ? ordered.data() : out + r * k;
    for (int64_t g = 0; g < groups; ++g) {
      const size_t at = static_cast<size_t>((first + r) * groups + g);
      const float scale = stored_scale(at), zero = stored_zero(at);
      const int64_t end = std::min(k, (g + 1) * group);
      for (int64_t i = g * group; i < end; ++i) to[i] = scale * (static_cast<float>(codes[i]) - zero);
    }
    if (!source_->order) continue;
    for (int64_t i = 0; i < k; ++i) out[r * k + source_->order[i]] = ordered[static_cast<size_t>(i)];
  }
}

const float* TrainedLinear::materialize(float* out, ThreadPool& pool) const {
  if (!weight.value.empty() && a.value.empty()) return weight.value.data();
  const int64_t k = source_->k, rank = parts_.adapter_rank;
  pool.parallel_for(static_cast<size_t>(source_->n), 16, [&](size_t begin, size_t end, int) {
    const int64_t first = static_cast<int64_t>(begin), count = static_cast<int64_t>(end - begin);
    rows(first, count, out + first * k);
    if (!a.value.empty())
      gemm(parts_.adapter_scale, {b.value.data() + first * rank, rank}, {a.value.data(), k}, 1,
           out + first * k, k, count, k, rank);
  });
  return out;
}

void TrainedLinear::accumulate_rows(int64_t first, int64_t count, const float* x, const float* dy,
                                    int64_t ldy, int64_t m, float* scratch) {
  const int64_t k = source_->k;
  if (weight.trained())
    gemm(1, {dy, ldy, true}, {x, k}, 1, weight.gradient.data() + first * k, k, count, k, m);
  if (!scales.trained() && !zeros.trained()) return;
  gemm(1, {dy, ldy, true}, {x, k}, 0, scratch, k, count, k, m);
  const int64_t group = format().group(), groups = format().groups();
  std::vector<float> ordered(source_->order ? static_cast<size_t>(k) : 0);
  for (int64_t r = 0; r < count; ++r) {
    const float* dw = scratch + r * k;
    if (source_->order) {
      for (int64_t i = 0; i < k; ++i) ordered[static_cast<size_t>(i)] = dw[source_->order[i]];
      dw = ordered.data();
    }
    for (int64_t g = 0; g < groups; ++g) {
      const size_t at = static_cast<size_t>((first + r) * groups + g);
      const int64_t begin = g * group;
      const GroupSums sums = group_sums(dw + begin, codes_.data() + (first + r) * k + begin, stored_zero(at),
                                        std::min(group, k - begin));
      if (scales.trained()) scales.gradient[at] += sums.weighted;
      if (zeros.trained()) zeros.gradient[at] -= stored_scale(at) * sums.plain;
    }
  }
}

void TrainedLinear::accumulate_bias(const float* dy, int64_t m, ThreadPool& pool) {
  if (!bias.trained()) return;
  const size_t n = bias.gradient.size();
  pool.parallel_for(n, 64, [&](size_t begin, size_t end, int) {
    for (int64_t i = 0; i < m; ++i) {
      const float* row = dy + static_cast<size_t>(i) * n;
      for (size_t j = begin; j < end; ++j) bias.gradient[j] += row[j];
    }
  });
}

void TrainedLinear::accumulate(const float* x, const float* dy, int64_t m, AlignedBuffer<float>& scratch,
                               ThreadPool& pool) {
  const int64_t n = source_->n, k = source_->k;
  accumulate_bias(dy, m, pool);
  if (weight.trained() || scales.trained() || zeros.trained()) {
    const int64_t panels = (n + kPanel - 1) / kPanel;
    const size_t share = scratch.size() / static_cast<size_t>(pool.size());
    NIBBLE_CHECK(share >= static_cast<size_t>(kPanel * k));
    pool.parallel_each(static_cast<size_t>(panels), [&](size_t panel, int thread) {
      const int64_t first = static_cast<int64_t>(panel) * kPanel;
      accumulate_rows(first, std::min(kPanel, n - first), x, dy + first, n, m,
                      scratch.data() + static_cast<size_t>(thread) * share);
    });
  }
  if (!a.trained()) return;
  const int64_t rank = parts_.adapter_rank;
  std::vector<float> inner(static_cast<size_t>(m * rank));  // x·Aᵀ, then dy·B
  gemm(1, {x, k}, {a.value.data(), k, true}, 0, inner.data(), rank, m, rank, k, pool);
  gemm(parts_.adapter_scale, {dy, n, true}, {inner.data(), rank}, 1, b.gradient.data(), rank, n, rank, m,
       pool);
  gemm(1, {dy, n}, {b.value.data(), rank}, 0, inner.data(), rank, m, rank, n, pool);
  gemm(parts_.adapter_scale, {inner.data(), rank, true}, {x, k}, 1, a.gradient.data(), k, rank, k, m, pool);
}

void TrainedLinear::add_adapter(const float* x, int64_t m, float* y, ThreadPool& pool) const {
  if (a.value.empty()) return;
  const int64_t n = source_->n, k = source_->k, rank = parts_.adapter_rank;
  std::vector<float> inner(static_cast<size_t>(m * rank));
  gemm(1, {x, k}, {a.value.data(), k, true}, 0, inner.data(), rank, m, rank, k, pool);
  gemm(parts_.adapter_scale, {inner.data(), rank}, {b.value.data(), rank, true}, 1, y, n, m, n, rank, pool);
}

void TrainedLinear::add_adapter_backward(const float* dy, int64_t m, float* dx, ThreadPool& pool) const {
  if (a.value.empty()) return;
  const int64_t n = source_->n, k = source_->k, rank = parts_.adapter_rank;
  std::vector<float> inner(static_cast<size_t>(m * rank));
  gemm(1, {dy, n}, {b.value.data(), rank}, 0, inner.data(), rank, m, rank, n, pool);
  gemm(parts_.adapter_scale, {inner.data(), rank}, {a.value.data(), k}, 1, dx, k, m, k, rank, pool);
}

void TrainedLinear::collect(std::vector<Parameter*>& to) {
  for (Parameter* p : {&weight, &bias, &scales, &zeros, &a, &b}) {
    if (p->trained()) to.push_back(p);
  }
}

TrainedBlock::TrainedBlock(const Model& model, size_t layer, const TrainedParts& parts, Random& random,
                           ThreadPool& pool) {
  const Block& from = model.blocks[layer];
  const TensorNames& names = model.architecture().names;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  attn_norm = trained_norm(from.attn_norm, prefix + names.attn_norm, parts);
  if (names.mlp_norm) mlp_norm = trained_norm(from.mlp_norm, prefix + names.mlp_norm, parts);
  linears.reserve(from.linears().size());  // the pointers stay
  const auto add = [&](const Linear& linear) -> TrainedLinear* {
    return linear.present() ? &linears.emplace_back(linear, parts, true, random, pool) : nullptr;
  };
  q = add(from.q);
  k = add(from.k);
  v = add(from.v);
  o = add(from.o);
  gate = add(from.gate);
  up = add(from.up);
  down = add(from.down);
}

TrainedModel::TrainedModel(std::shared_ptr<const Model> model, const TrainedParts& parts, ThreadPool& pool)
    : model_(std::move(model)) {
  Random random(parts.seed);
  if (!config().tied_head) own_embedding_.emplace(model_->embedding, parts, false, random, pool);
  head_.emplace(model_->head, parts, false, random, pool);
  final_norm = trained_norm(model_->final_norm, model_->architecture().names.final_norm, parts);
  for (size_t i = 0; i < model_->blocks.size(); ++i) blocks.emplace_back(*model_, i, parts, random, pool);
}

std::vector<Parameter*> TrainedModel::parameters() {
  std::vector<Parameter*> all;
  const auto norm = [&](TrainedNorm& n) {
    for (Parameter* p : {&n.weight, &n.bias}) {
      if (p->trained()) all.push_back(p);
    }
  };
  if (own_embedding_) own_embedding_->collect(all);
  head_->collect(all);
  norm(final_norm);
  for (TrainedBlock& block : blocks) {
    norm(block.attn_norm);
    norm(block.mlp_norm);
    for (TrainedLinear& linear : block.linears) linear.collect(all);
  }
  return all;
}

void TrainedModel::clear_gradients() {
  for (Parameter* p : parameters()) std::fill(p->gradient.begin(), p->gradient.end(), 0.0f);
}

}  // namespace nibble
