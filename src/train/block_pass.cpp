#include "train/block_pass.h"

#include <algorithm>

#include "model/rope.h"
#include "quant/linalg.h"
#include "train/operations.h"

namespace nibble {

BlockActivations::BlockActivations(const ModelConfig& c, size_t tokens) {
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

uint64_t BlockActivations::bytes() const {
  uint64_t total = 0;
  for (const AlignedBuffer<float>* b :
       {&attn_in, &q, &k, &v, &attended, &middle, &mlp_in, &gate, &up, &inner})
    total += b->bytes();
  return total;
}

BlockPass::BlockPass(const Model& model, const TrainedBlock& like, int tokens, int context, size_t scratch,
                     ThreadPool& pool, size_t places, const KernelTable* bf16)
    : model_(model),
      config_(model.config),
      capacity_(tokens),
      context_(context),
      pool_(pool),
      kernels_(nibble::kernels()),
      bf16_(bf16) {
  if (context < 1 || context > config_.max_context)
    fail("sequences of {} tokens: {} takes 1 to {}", context, model.name(), config_.max_context);
  if (tokens < 1) fail("a batch of {} tokens", tokens);
  const size_t rows = static_cast<size_t>(tokens), hidden = static_cast<size_t>(config_.hidden_size);
  const size_t inner = static_cast<size_t>(config_.intermediate_size);
  const size_t query = static_cast<size_t>(config_.query_size()), kv = static_cast<size_t>(config_.kv_size());
  const std::vector<float> table = rope_table(model, context);
  rope_ = AlignedBuffer<float>(table.size());
  std::copy(table.begin(), table.end(), rope_.data());
  int64_t widest = std::max<int64_t>(config_.hidden_size, config_.query_size());
  weights_.resize(places);
  for (const TrainedLinear& l : like.linears) {
    for (Weights& w : weights_)
      w.buffers.emplace_back(
          l.weight.value.empty() && !(bf16 && l.is_frozen()) ? static_cast<size_t>(l.n() * l.k()) : 0);
    widest = std::max(widest, l.k());
  }
  for (Weights& w : weights_) {
    w.data.resize(w.buffers.size());
    w.rounded.resize(w.buffers.size());
  }
  if (bf16) sum_ = AlignedBuffer<float>(rows * hidden);
  wide_ = AlignedBuffer<float>(rows * std::max(query, inner));
  dx_ = AlignedBuffer<float>(rows * hidden);
  dq_ = AlignedBuffer<float>(rows * query);
  dk_ = AlignedBuffer<float>(rows * query);
  dv_ = AlignedBuffer<float>(rows * query);
  dk_shared_ = AlignedBuffer<float>(rows * kv);
  dv_shared_ = AlignedBuffer<float>(rows * kv);
  share_ = std::max({scratch, static_cast<size_t>(TrainedLinear::kPanel * widest), 3 * hidden, inner,
                     attention_gradient_scratch(context)});
  scratch_ = AlignedBuffer<float>(share_ * static_cast<size_t>(pool.size()));
}

uint64_t BlockPass::bytes() const {
  uint64_t total = 0;
  for (const AlignedBuffer<float>* b :
       {&rope_, &wide_, &sum_, &dx_, &dq_, &dk_, &dv_, &dk_shared_, &dv_shared_, &scratch_})
    total += b->bytes();
  for (const Weights& w : weights_) {
    for (const auto& b : w.buffers) total += b.bytes();
    for (const auto& r : w.rounded) total += r.bytes();
  }
  total += room_.bytes();
  return total;
}

void BlockPass::begin(const Batch& batch) {
  int64_t total = 0;
  for (const Segment& s : batch.segments) {
    if (s.start != 0) fail("a sequence to train on starts at position {}, not 0", s.start);
    if (s.count < 1 || s.count > context_)
      fail("a sequence of {} tokens: 1 to {} are possible", s.count, context_);
    total += s.count;
  }
  NIBBLE_CHECK(total == static_cast<int64_t>(batch.tokens.size()));
  if (total < 1 || total > capacity_) fail("a batch of {} tokens: 1 to {} are possible", total, capacity_);
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= config_.vocab_size)
      fail("token {} is outside the vocabulary of {}", token, config_.vocab_size);
  }
  batch_ = &batch;
  tokens_ = total;
}

template <typename Body>
void BlockPass::for_heads(const Body& body) {
  const size_t heads = static_cast<size_t>(config_.n_heads);
  std::vector<int64_t> first;
  int64_t token = 0;
  for (const Segment& s : batch_->segments) {
    first.push_back(token);
    token += s.count;
  }
  pool_.parallel_each(batch_->segments.size() * heads, [&](size_t index, int thread) {
    const size_t segment = index / heads;
    body(first[segment], batch_->segments[segment].count, static_cast<int64_t>(index % heads),
         scratch(thread));
  });
}

template <typename Body>
void BlockPass::for_positions(const Body& body) {
  const int64_t pairs = config_.rope_dims / 2;
  std::vector<int> position;
  for (const Segment& s : batch_->segments) {
    for (int i = 0; i < s.count; ++i) position.push_back(i);
  }
  pool_.parallel_for(position.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      body(static_cast<int64_t>(t), rope_.data() + int64_t{position[t]} * pairs * 2);
  });
}

void BlockPass::load(TrainedBlock& block, size_t place) {
  place_ = place;
  Weights& w = weights_[place];
  for (size_t i = 0; i < block.linears.size(); ++i) {
    const TrainedLinear& l = block.linears[i];
    if (!bf16_ || !l.is_frozen()) {
      w.data[i] = l.materialize(w.buffers[i].data(), pool_);
    } else if (!w.rounded[i]) {
      w.rounded[i] = RoundedWeight(l, *bf16_, pool_);
    }
  }
}

void BlockPass::norm(const TrainedNorm& norm, const float* x, float* y) {
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

void BlockPass::norm_backward(TrainedNorm& norm, const float* x, const float* dy, float* gradient) {
  const int64_t n = config_.hidden_size;
  const bool weights = norm.weight.trained(), biases = norm.bias.trained();
  // Each thread: x̂ of a row, and its sums for weight and bias.
  const auto part = [&](int thread, int64_t i) { return scratch(thread) + i * n; };
  for (int t = 0; t < pool_.size(); ++t) std::fill_n(part(t, 1), 2 * n, 0.0f);
  pool_.parallel_for(static_cast<size_t>(tokens_), 4, [&](size_t begin, size_t end, int thread) {
    for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r)
      norm_gradient(config_.norm, config_.norm_eps, x + r * n, norm.weight.value.data(), dy + r * n, n,
                    part(thread, 0), gradient + r * n, weights ? part(thread, 1) : nullptr,
                    biases ? part(thread, 2) : nullptr);
  });
  for (int t = 0; t < pool_.size(); ++t) {
    if (weights) kernels_.add(norm.weight.gradient.data(), part(t, 1), n);
    if (biases) kernels_.add(norm.bias.gradient.data(), part(t, 2), n);
  }
}

void BlockPass::add(float* y, const float* x, int64_t n) {
  pool_.parallel_for(static_cast<size_t>(n), 8192, [&](size_t begin, size_t end, int) {
    kernels_.add(y + begin, x + begin, static_cast<int64_t>(end - begin));
  });
}

void BlockPass::linear(const TrainedBlock& block, const TrainedLinear& l, const float* x, float* y) {
  const float* bias = l.bias_data();
  const Weights& w = weights_[place_];
  const size_t i = index(block, l);
  if (w.rounded[i]) {
    w.rounded[i].forward(x, tokens_, bias, y, room_, pool_);
    l.add_adapter(x, tokens_, y, pool_);
    return;
  }
  if (bias) {
    for (int64_t t = 0; t < tokens_; ++t) std::copy_n(bias, l.n(), y + t * l.n());
  }
  gemm(1, {x, l.k()}, {w.data[i], l.k(), true}, bias ? 1 : 0, y, l.n(), tokens_, l.n(), l.k(), pool_);
}

void BlockPass::linear_backward(TrainedBlock& block, TrainedLinear& l, const float* x, const float* dy,
                                float* dx, bool add) {
  l.accumulate(x, dy, tokens_, scratch_, pool_);
  if (!dx) return;
  const Weights& w = weights_[place_];
  const size_t i = index(block, l);
  if (!w.rounded[i]) {
    gemm(1, {dy, l.n()}, {w.data[i], l.k()}, add ? 1 : 0, dx, l.k(), tokens_, l.k(), l.n(), pool_);
    return;
  }
  w.rounded[i].backward(dy, tokens_, add ? sum_.data() : dx, room_, pool_);
  if (add) this->add(dx, sum_.data(), tokens_ * l.k());
  l.add_adapter_backward(dy, tokens_, dx, pool_);
}

void BlockPass::forward(TrainedBlock& b, const float* h, BlockActivations& act, float* out) {
  const ModelConfig& c = config_;
  const int64_t hidden = c.hidden_size, query = c.query_size(), kv = c.kv_size(), dim = c.head_dim;
  norm(b.attn_norm, h, act.attn_in.data());
  linear(b, *b.q, act.attn_in.data(), act.q.data());
  linear(b, *b.k, act.attn_in.data(), act.k.data());
  linear(b, *b.v, act.attn_in.data(), act.v.data());
  for_positions([&](int64_t t, const float* table) {
    rotate_row(act.q.data() + t * query, c.n_heads, dim, c.rope_dims / 2, table, Turn::kForward);
    rotate_row(act.k.data() + t * kv, c.n_kv_heads, dim, c.rope_dims / 2, table, Turn::kForward);
  });
  const int64_t repeats = c.n_heads / c.n_kv_heads;
  for_heads([&](int64_t first, int64_t count, int64_t head, float* scratch) {
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

void BlockPass::backward_mlp(TrainedBlock& b, BlockActivations& act, float* dx, const float* gradient) {
  const int64_t inner = config_.intermediate_size;
  linear_backward(b, *b.down, act.inner.data(), gradient, wide_.data(), false);
  pool_.parallel_for(static_cast<size_t>(tokens_), 1, [&](size_t begin, size_t end, int thread) {
    float* room = scratch(thread);
    for (int64_t t = static_cast<int64_t>(begin); t < static_cast<int64_t>(end); ++t) {
      float* up = act.up.data() + t * inner;
      const float* dy = wide_.data() + t * inner;
      if (b.gate) {
        swiglu_gradient(kernels_, act.gate.data() + t * inner, up, dy, inner, room);
      } else {
        gelu_gradient(kernels_, up, dy, inner, room);
      }
    }
  });
  const float* x = config_.parallel_block ? act.attn_in.data() : act.mlp_in.data();
  linear_backward(b, *b.up, x, act.up.data(), dx, false);
  if (b.gate) linear_backward(b, *b.gate, x, act.gate.data(), dx, true);
}

void BlockPass::backward_attention(TrainedBlock& b, BlockActivations& act, float* dx, const float* gradient) {
  const ModelConfig& c = config_;
  const int64_t query = c.query_size(), kv = c.kv_size(), dim = c.head_dim,
                repeats = c.n_heads / c.n_kv_heads;
  linear_backward(b, *b.o, act.attended.data(), gradient, wide_.data(), false);
  for_heads([&](int64_t first, int64_t count, int64_t head, float* scratch) {
    const int64_t at = first * query + head * dim, shared = first * kv + head / repeats * dim;
    attention_gradient(
        kernels_, {act.q.data() + at, act.k.data() + shared, act.v.data() + shared, count, dim, query, kv},
        wide_.data() + at, dq_.data() + at, dk_.data() + at, dv_.data() + at, scratch);
  });
  // Keys and values of one head serve several queries' heads; their gradients add up.
  for_positions([&](int64_t t, const float* table) {
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

void BlockPass::backward(TrainedBlock& b, const float* h, BlockActivations& act, float* gradient,
                         bool input) {
  float* normed = input || b.attn_norm.trained() ? dx_.data() : nullptr;  // of what q, k and v read
  backward_mlp(b, act, config_.parallel_block ? normed : dx_.data(), gradient);
  if (!config_.parallel_block) norm_backward(b.mlp_norm, act.middle.data(), dx_.data(), gradient);
  backward_attention(b, act, normed, gradient);
  if (normed) norm_backward(b.attn_norm, h, normed, gradient);
}

}  // namespace nibble
