#include "train/gradient_pass.h"

#include <algorithm>
#include <cstring>

#include "model/rope.h"
#include "quant/linalg.h"
#include "train/operations.h"

namespace nibble {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of logits at a time
constexpr int64_t kHeadPanel = 512;                 // rows of the head of a task

}  // namespace

GradientPass::Activations::Activations(const ModelConfig& c, size_t tokens) {
  const auto make = [&](int width) { return AlignedBuffer<float>(tokens * static_cast<size_t>(width)); };
  attn_in = make(c.hidden_size);
  q = make(c.query_size());
  k = make(c.kv_size());
  v = make(c.kv_size());
  attended = make(c.query_size());
  if (!c.parallel_block) {
    middle = make(c.hidden_size);
    mlp_in = make(c.hidden_size);
  }
  if (c.has_gate()) gate = make(c.intermediate_size);
  up = make(c.intermediate_size);
  inner = make(c.intermediate_size);
}

uint64_t GradientPass::Activations::bytes() const {
  uint64_t total = 0;
  for (const AlignedBuffer<float>* b :
       {&attn_in, &q, &k, &v, &attended, &middle, &mlp_in, &gate, &up, &inner})
    total += b->bytes();
  return total;
}

GradientPass::GradientPass(TrainedModel& model, const GradientOptions& options, ThreadPool& pool)
    : model_(model), config_(model.config()), options_(options), pool_(pool), kernels_(nibble::kernels()) {
  if (options.context < 1 || options.context > config_.max_context)
    fail("sequences of {} tokens: {} takes 1 to {}", options.context, model.model().name(),
         config_.max_context);
  if (options.batch_tokens < 1) fail("a batch of {} tokens", options.batch_tokens);
  const size_t tokens = static_cast<size_t>(options.batch_tokens), threads = static_cast<size_t>(pool.size());
  const size_t hidden = static_cast<size_t>(config_.hidden_size);
  const size_t inner = static_cast<size_t>(config_.intermediate_size);
  const size_t query = static_cast<size_t>(config_.query_size()), kv = static_cast<size_t>(config_.kv_size());
  const std::vector<float> table = rope_table(model.model(), options.context);
  rope_ = AlignedBuffer<float>(table.size());
  std::copy(table.begin(), table.end(), rope_.data());
  for (size_t i = 0; i <= model.blocks.size(); ++i) stream_.emplace_back(tokens * hidden);
  for (size_t i = 0; i < (options.recompute ? 1 : model.blocks.size()); ++i)
    kept_.emplace_back(config_, tokens);
  int64_t widest = std::max<int64_t>(config_.hidden_size, config_.query_size());
  for (const TrainedLinear& l : model.blocks.front().linears) {
    weight_buffers_.emplace_back(l.weight.value.empty() ? static_cast<size_t>(l.n() * l.k()) : 0);
    widest = std::max(widest, l.k());
  }
  weights_.resize(weight_buffers_.size());
  normed_ = AlignedBuffer<float>(tokens * hidden);
  gradient_ = AlignedBuffer<float>(tokens * hidden);
  wide_ = AlignedBuffer<float>(tokens * std::max(query, inner));
  dx_ = AlignedBuffer<float>(tokens * hidden);
  dq_ = AlignedBuffer<float>(tokens * query);
  dk_ = AlignedBuffer<float>(tokens * query);
  dv_ = AlignedBuffer<float>(tokens * query);
  dk_shared_ = AlignedBuffer<float>(tokens * kv);
  dv_shared_ = AlignedBuffer<float>(tokens * kv);
  const int64_t vocab = config_.vocab_size;
  head_rows_ = std::clamp<int64_t>(kLogitBytes / (4 * vocab), 1, options.batch_tokens);
  logits_ = AlignedBuffer<float>(static_cast<size_t>(head_rows_ * vocab));
  panel_out_ = AlignedBuffer<float>(static_cast<size_t>(head_rows_) * hidden * threads);
  share_ = std::max({static_cast<size_t>(TrainedLinear::kPanel * widest),
                     static_cast<size_t>(kHeadPanel + TrainedLinear::kPanel) * hidden, 3 * hidden, inner,
                     attention_gradient_scratch(options.context)});
  scratch_ = AlignedBuffer<float>(share_ * threads);
}

uint64_t GradientPass::workspace_bytes() const {
  uint64_t total = 0;
  for (const AlignedBuffer<float>* b : {&rope_, &normed_, &gradient_, &wide_, &dx_, &dq_, &dk_, &dv_,
                                        &dk_shared_, &dv_shared_, &logits_, &panel_out_, &scratch_})
    total += b->bytes();
  for (const auto& b : stream_) total += b.bytes();
  for (const auto& b : weight_buffers_) total += b.bytes();
  for (const Activations& a : kept_) total += a.bytes();
  return total;
}

void GradientPass::check(const Batch& batch) const {
  int64_t total = 0;
  for (const Segment& s : batch.segments) {
    if (s.start != 0) fail("a sequence to train on starts at position {}, not 0", s.start);
    if (s.count < 1 || s.count > options_.context)
      fail("a sequence of {} tokens: 1 to {} are possible", s.count, options_.context);
    total += s.count;
  }
  NIBBLE_CHECK(total == static_cast<int64_t>(batch.tokens.size()));
  if (total < 1 || total > options_.batch_tokens)
    fail("a batch of {} tokens: 1 to {} are possible", total, options_.batch_tokens);
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= config_.vocab_size)
      fail("token {} is outside the vocabulary of {}", token, config_.vocab_size);
  }
}

template <typename Body>
void GradientPass::for_heads(const Batch& batch, const Body& body) {
  const size_t heads = static_cast<size_t>(config_.n_heads);
  std::vector<int64_t> first;
  int64_t token = 0;
  for (const Segment& s : batch.segments) {
    first.push_back(token);
    token += s.count;
  }
  pool_.parallel_each(batch.segments.size() * heads, [&](size_t index, int thread) {
    const size_t segment = index / heads;
    body(first[segment], batch.segments[segment].count, static_cast<int64_t>(index % heads),
         scratch_.data() + static_cast<size_t>(thread) * share_);
  });
}

template <typename Body>
void GradientPass::for_positions(const Batch& batch, const Body& body) {
  const int64_t pairs = config_.rope_dims / 2;
  std::vector<int> position;
  for (const Segment& s : batch.segments) {
    for (int i = 0; i < s.count; ++i) position.push_back(i);
  }
  pool_.parallel_for(position.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      body(static_cast<int64_t>(t), rope_.data() + int64_t{position[t]} * pairs * 2);
  });
}

void GradientPass::load(TrainedBlock& block) {
  for (size_t i = 0; i < block.linears.size(); ++i)
    weights_[i] = block.linears[i].materialize(weight_buffers_[i].data(), pool_);
}

const float* GradientPass::weight(const TrainedBlock& block, const TrainedLinear* linear) const {
  return weights_[static_cast<size_t>(linear - block.linears.data())];
}

void GradientPass::embed(const Batch& batch) {
  const int64_t hidden = config_.hidden_size;
  pool_.parallel_for(batch.tokens.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      model_.embedding().rows(batch.tokens[t], 1, stream_[0].data() + static_cast<int64_t>(t) * hidden);
  });
}

void GradientPass::norm(const TrainedNorm& norm, const float* x, float* y) {
  const int64_t n = config_.hidden_size;
  const float *w = norm.weight.value.data(), *b = norm.bias.value.data(), eps = config_.norm_eps;
  pool_.parallel_for(static_cast<size_t>(tokens_), 4, [&](size_t begin, size_t end, int) {
    for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r) {
      if (config_.norm == NormKind::kRms) {
        kernels_.rms_norm(x + r * n, w, y + r * n, n, eps);
      } else {
        kernels_.layer_norm(x + r * n, w, b, y + r * n, n, eps);
      }
    }
  });
}

void GradientPass::norm_backward(TrainedNorm& norm, const float* x, const float* dy) {
  const int64_t n = config_.hidden_size;
  const bool weights = norm.weight.trained(), biases = norm.bias.trained();
  // Each thread: x̂ of a row, and its sums for weight and bias.
  const auto part = [&](int thread, int64_t i) {
    return scratch_.data() + static_cast<size_t>(thread) * share_ + i * n;
  };
  for (int t = 0; t < pool_.size(); ++t) std::fill_n(part(t, 1), 2 * n, 0.0f);
  pool_.parallel_for(static_cast<size_t>(tokens_), 4, [&](size_t begin, size_t end, int thread) {
    for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r)
      norm_gradient(config_.norm, config_.norm_eps, x + r * n, norm.weight.value.data(), dy + r * n, n,
                    part(thread, 0), gradient_.data() + r * n, weights ? part(thread, 1) : nullptr,
                    biases ? part(thread, 2) : nullptr);
  });
  for (int t = 0; t < pool_.size(); ++t) {
    if (weights) kernels_.add(norm.weight.gradient.data(), part(t, 1), n);
    if (biases) kernels_.add(norm.bias.gradient.data(), part(t, 2), n);
  }
}

void GradientPass::add(float* y, const float* x, int64_t n) {
  pool_.parallel_for(static_cast<size_t>(n), 8192, [&](size_t begin, size_t end, int) {
    kernels_.add(y + begin, x + begin, static_cast<int64_t>(end - begin));
  });
}

void GradientPass::linear(const TrainedBlock& block, const TrainedLinear& l, const float* x, float* y) {
  const float* bias = l.bias_data();
  if (bias) {
    for (int64_t t = 0; t < tokens_; ++t) std::copy_n(bias, l.n(), y + t * l.n());
  }
  gemm(1, {x, l.k()}, {weight(block, &l), l.k(), true}, bias ? 1 : 0, y, l.n(), tokens_, l.n(), l.k(), pool_);
}

void GradientPass::linear_backward(TrainedBlock& block, TrainedLinear& l, const float* x, const float* dy,
                                   float* dx, bool add) {
  l.accumulate(x, dy, tokens_, scratch_, pool_);
  gemm(1, {dy, l.n()}, {weight(block, &l), l.k()}, add ? 1 : 0, dx, l.k(), tokens_, l.k(), l.n(), pool_);
}

void GradientPass::forward_block(TrainedBlock& b, const Batch& batch, const float* h, Activations& act,
                                 float* out) {
  const ModelConfig& c = config_;
  const int64_t hidden = c.hidden_size, query = c.query_size(), kv = c.kv_size(), dim = c.head_dim;
  norm(b.attn_norm, h, act.attn_in.data());
  linear(b, *b.q, act.attn_in.data(), act.q.data());
  linear(b, *b.k, act.attn_in.data(), act.k.data());
  linear(b, *b.v, act.attn_in.data(), act.v.data());
  for_positions(batch, [&](int64_t t, const float* table) {
    rotate_row(act.q.data() + t * query, c.n_heads, dim, c.rope_dims / 2, table, Turn::kForward);
    rotate_row(act.k.data() + t * kv, c.n_kv_heads, dim, c.rope_dims / 2, table, Turn::kForward);
  });
  const int64_t repeats = c.n_heads / c.n_kv_heads;
  for_heads(batch, [&](int64_t first, int64_t count, int64_t head, float* scratch) {
    const int64_t at = first * query + head * dim, shared = first * kv + head / repeats * dim;
    attend_whole(kernels_,
                 {act.q.data() + at, act.k.data() + shared, act.v.data() + shared, count, dim, query, kv},
                 act.attended.data() + at, scratch);
  });
  float* middle = c.parallel_block ? out : act.middle.data();
  linear(b, *b.o, act.attended.data(), middle);
  add(middle, h, tokens_ * hidden);
  const float* mlp_in = act.attn_in.data();
  if (!c.parallel_block) {
    norm(b.mlp_norm, middle, act.mlp_in.data());
    mlp_in = act.mlp_in.data();
  }
  linear(b, *b.up, mlp_in, act.up.data());
  if (b.gate) linear(b, *b.gate, mlp_in, act.gate.data());
  pool_.parallel_for(
      static_cast<size_t>(tokens_ * c.intermediate_size), 4096, [&](size_t begin, size_t end, int) {
        const int64_t n = static_cast<int64_t>(end - begin);
        if (b.gate) {
          kernels_.silu_mul(act.gate.data() + begin, act.up.data() + begin, act.inner.data() + begin, n);
        } else {
          kernels_.gelu_new(act.up.data() + begin, act.inner.data() + begin, n);
        }
      });
  linear(b, *b.down, act.inner.data(), dx_.data());
  add(dx_.data(), middle, tokens_ * hidden);
  std::copy_n(dx_.data(), tokens_ * hidden, out);
}

void GradientPass::backward_mlp(TrainedBlock& b, Activations& act, float* dx) {
  const int64_t inner = config_.intermediate_size;
  linear_backward(b, *b.down, act.inner.data(), gradient_.data(), wide_.data(), false);
  pool_.parallel_for(static_cast<size_t>(tokens_), 1, [&](size_t begin, size_t end, int thread) {
    float* scratch = scratch_.data() + static_cast<size_t>(thread) * share_;
    for (int64_t t = static_cast<int64_t>(begin); t < static_cast<int64_t>(end); ++t) {
      float* up = act.up.data() + t * inner;
      const float* dy = wide_.data() + t * inner;
      if (b.gate) {
        swiglu_gradient(kernels_, act.gate.data() + t * inner, up, dy, inner, scratch);
      } else {
        gelu_gradient(kernels_, up, dy, inner, scratch);
      }
    }
  });
  const float* x = config_.parallel_block ? act.attn_in.data() : act.mlp_in.data();
  linear_backward(b, *b.up, x, act.up.data(), dx, false);
  if (b.gate) linear_backward(b, *b.gate, x, act.gate.data(), dx, true);
}

void GradientPass::backward_attention(TrainedBlock& b, const Batch& batch, Activations& act, float* dx) {
  const ModelConfig& c = config_;
  const int64_t query = c.query_size(), kv = c.kv_size(), dim = c.head_dim,
                repeats = c.n_heads / c.n_kv_heads;
  linear_backward(b, *b.o, act.attended.data(), gradient_.data(), wide_.data(), false);
  for_heads(batch, [&](int64_t first, int64_t count, int64_t head, float* scratch) {
    const int64_t at = first * query + head * dim, shared = first * kv + head / repeats * dim;
    attention_gradient(
        kernels_, {act.q.data() + at, act.k.data() + shared, act.v.data() + shared, count, dim, query, kv},
        wide_.data() + at, dq_.data() + at, dk_.data() + at, dv_.data() + at, scratch);
  });
  // Keys and values of one head serve several queries' heads; their gradients add up.
  for_positions(batch, [&](int64_t t, const float* table) {
    for (const auto& [from, to] : {std::pair{&dk_, &dk_shared_}, std::pair{&dv_, &dv_shared_}}) {
      for (int64_t head = 0; head < c.n_heads; ++head) {
        const float* source = from->data() + t * query + head * dim;
        float* target = to->data() + t * kv + head / repeats * dim;
        if (head % repeats == 0) {
          std::copy_n(source, dim, target);
        } else {
          kernels_.add(target, source, dim);
        }
      }
    }
    rotate_row(dq_.data() + t * query, c.n_heads, dim, c.rope_dims / 2, table, Turn::kBack);
    rotate_row(dk_shared_.data() + t * kv, c.n_kv_heads, dim, c.rope_dims / 2, table, Turn::kBack);
  });
  const float* x = act.attn_in.data();
  linear_backward(b, *b.q, x, dq_.data(), dx, c.parallel_block);
  linear_backward(b, *b.k, x, dk_shared_.data(), dx, true);
  linear_backward(b, *b.v, x, dv_shared_.data(), dx, true);
}

void GradientPass::backward_block(TrainedBlock& b, const Batch& batch, const float* h, Activations& act) {
  backward_mlp(b, act, dx_.data());
  if (!config_.parallel_block) norm_backward(b.mlp_norm, act.middle.data(), dx_.data());
  backward_attention(b, batch, act, dx_.data());
  norm_backward(b.attn_norm, h, dx_.data());
}

void GradientPass::forward(const Batch& batch) {
  check(batch);
  tokens_ = static_cast<int64_t>(batch.tokens.size());
  embed(batch);
  for (size_t i = 0; i < model_.blocks.size(); ++i) {
    load(model_.blocks[i]);
    forward_block(model_.blocks[i], batch, stream_[i].data(), kept_[options_.recompute ? 0 : i],
                  stream_[i + 1].data());
  }
  norm(model_.final_norm, stream_.back().data(), normed_.data());
}

double GradientPass::head(const Batch& batch, Loss& loss, bool gradients) {
  TrainedLinear& head = model_.head();
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  const size_t panels = static_cast<size_t>((vocab + kHeadPanel - 1) / kHeadPanel);
  const float* whole = head.weight.value.empty() ? nullptr : head.weight.value.data();
  const auto panel_weight = [&](int64_t first, int64_t count, float* scratch) -> const float* {
    if (whole) return whole + first * hidden;
    head.rows(first, count, scratch);
    return scratch;
  };
  const auto scratch_of = [&](int thread) { return scratch_.data() + static_cast<size_t>(thread) * share_; };
  loss.begin(batch);
  double total = 0;
  for (int64_t row = 0; row < tokens_; row += head_rows_) {
    const int64_t rows = std::min(head_rows_, tokens_ - row);
    const float* x = normed_.data() + row * hidden;
    float* dx = dx_.data() + row * hidden;
    std::fill_n(dx, rows * hidden, 0.0f);
    if (!loss.counts(row, rows)) continue;
    pool_.parallel_each(panels, [&](size_t panel, int thread) {
      const int64_t first = static_cast<int64_t>(panel) * kHeadPanel,
                    count = std::min(kHeadPanel, vocab - first);
      const float* w = panel_weight(first, count, scratch_of(thread));
      const float* bias = head.bias_data();
      if (bias) {
        for (int64_t r = 0; r < rows; ++r)
          std::copy_n(bias + first, count, logits_.data() + r * vocab + first);
      }
      gemm(1, {x, hidden}, {w, hidden, true}, bias ? 1 : 0, logits_.data() + first, vocab, rows, count,
           hidden);
    });
    total += loss.rows(row, rows, logits_.data());
    if (!gradients) continue;
    head.accumulate_bias(logits_.data(), rows, pool_);
    const size_t sums = static_cast<size_t>(rows * hidden);
    std::fill_n(panel_out_.data(), sums * static_cast<size_t>(pool_.size()), 0.0f);
    // Panels are dealt out in fixed pieces, so that the sums have one order.
    pool_.parallel_for(panels, 1, [&](size_t begin, size_t end, int thread) {
      float* sum = panel_out_.data() + static_cast<size_t>(thread) * sums;
      for (int64_t panel = static_cast<int64_t>(begin); panel < static_cast<int64_t>(end); ++panel) {
        const int64_t first = panel * kHeadPanel, count = std::min(kHeadPanel, vocab - first);
        const float* w = panel_weight(first, count, scratch_of(thread));
        gemm(1, {logits_.data() + first, vocab}, {w, hidden}, 1, sum, hidden, rows, hidden, count);
        for (int64_t at = 0; at < count; at += TrainedLinear::kPanel)
          head.accumulate_rows(first + at, std::min(TrainedLinear::kPanel, count - at), x,
                               logits_.data() + first + at, vocab, rows,
                               scratch_of(thread) + kHeadPanel * hidden);
      }
    });
    for (int t = 0; t < pool_.size(); ++t)
      kernels_.add(dx, panel_out_.data() + static_cast<size_t>(t) * sums, static_cast<int64_t>(sums));
  }
  return total;
}

void GradientPass::embedding_gradient(const Batch& batch) {
  Parameter& weight = model_.embedding().weight;
  if (!weight.trained()) return;
  const int64_t hidden = config_.hidden_size;
  for (int64_t t = 0; t < tokens_; ++t)
    kernels_.add(weight.gradient.data() + int64_t{batch.tokens[static_cast<size_t>(t)]} * hidden,
                 gradient_.data() + t * hidden, hidden);
}

double GradientPass::loss(const Batch& batch, Loss& loss) {
  forward(batch);
  return head(batch, loss, false);
}

double GradientPass::gradients(const Batch& batch, Loss& loss) {
  forward(batch);
  const double value = head(batch, loss, true);
  std::fill_n(gradient_.data(), tokens_ * config_.hidden_size, 0.0f);
  norm_backward(model_.final_norm, stream_.back().data(), dx_.data());
  for (size_t i = model_.blocks.size(); i-- > 0;) {
    TrainedBlock& block = model_.blocks[i];
    Activations& act = kept_[options_.recompute ? 0 : i];
    // The last block's weights and activations are still there.
    if (i + 1 < model_.blocks.size()) {
      load(block);
      if (options_.recompute) forward_block(block, batch, stream_[i].data(), act, stream_[i + 1].data());
    }
    backward_block(block, batch, stream_[i].data(), act);
  }
  embedding_gradient(batch);
  return value;
}

}  // namespace nibble
