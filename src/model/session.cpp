#include "model/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/attention.h"

namespace nibble {
namespace {

constexpr double kTwoPi = 6.283185307179586;

// Rotary frequencies of a head, with Llama 3's stretching (transformers, _compute_llama3_parameters).
std::vector<double> rope_frequencies(const Model& model) {
  const ModelConfig& c = model.config;
  std::vector<double> frequencies(static_cast<size_t>(c.rope_dims / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = 1.0 / std::pow(double{c.rope_theta}, 2.0 * static_cast<double>(i) / c.rope_dims);
    if (c.rope_scaling) {
      const RopeScaling& s = *c.rope_scaling;
      const double wavelength = kTwoPi / f;
      const double low = s.original_context / double{s.low_freq_factor};
      const double high = s.original_context / double{s.high_freq_factor};
      if (wavelength > low) {
        f /= double{s.factor};
      } else if (wavelength >= high) {
        const double smooth = (s.original_context / wavelength - double{s.low_freq_factor}) /
                              (double{s.high_freq_factor} - double{s.low_freq_factor});
        f = (1 - smooth) * f / double{s.factor} + smooth * f;
      }
    }
    if (!model.rope_factors.empty()) f /= double{model.rope_factors[i]};
    frequencies[i] = f;
  }
  return frequencies;
}

}  // namespace

void Batch::add(int slot, int start, std::span<const int32_t> ids) {
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  segments.push_back({slot, start, static_cast<int>(ids.size())});
}

// The rows of one linear input, converted once for all the linears that read it.
struct Session::Input {
  const float* x;
  int64_t rows, k;
  bool has_bf16 = false;
  int segment = 0;  // of the int8 form that is there, 0: none
};

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options, ThreadPool& pool)
    : model_(std::move(model)), options_(options), pool_(pool), kernels_(nibble::kernels()) {
  const ModelConfig& c = model_->config;
  if (options_.slots < 1 || options_.context < 1 || options_.batch_tokens < 1)
    fail("a session needs at least one slot, one position and one token a batch");
  if (options_.context > c.max_context)
    fail("{}: {} tokens of context asked for, the model allows {}", model_->name(), options_.context,
         c.max_context);
  cache_element_ = options_.precision.half_cache ? 2 : 4;
  const size_t context = static_cast<size_t>(options_.context),
               tokens = static_cast<size_t>(options_.batch_tokens);
  cache_ = AlignedBuffer<std::byte>(static_cast<size_t>(c.n_layers) * static_cast<size_t>(options_.slots) *
                                    2 * static_cast<size_t>(c.kv_size()) * context * cache_element_);
  const auto frequencies = rope_frequencies(*model_);
  rope_ = AlignedBuffer<float>(context * frequencies.size() * 2);
  for (size_t p = 0, at = 0; p < context; ++p) {
    for (const double f : frequencies) {
      rope_[at++] = static_cast<float>(std::cos(static_cast<double>(p) * f));
      rope_[at++] = static_cast<float>(std::sin(static_cast<double>(p) * f));
    }
  }
  const size_t hidden = static_cast<size_t>(c.hidden_size), inner = static_cast<size_t>(c.intermediate_size);
  residual_ = AlignedBuffer<float>(tokens * hidden);
  normed_ = AlignedBuffer<float>(tokens * hidden);
  projected_ = AlignedBuffer<float>(tokens * hidden);
  q_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.query_size()));
  k_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.kv_size()));
  v_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.kv_size()));
  attended_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.query_size()));
  if (c.has_gate()) gate_ = AlignedBuffer<float>(tokens * inner);
  up_ = AlignedBuffer<float>(tokens * inner);

  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, c.query_size()});
  bool any_packed = options_.expect_packed || model_->head.packed, any_dense = !model_->head.packed;
  for (const Linear* l : model_->linears()) (l->packed ? any_packed : any_dense) = true;
  const bool use_int8 = any_packed && options_.precision.int8;
  if (any_dense && options_.precision.bf16 && kernels_.dense_bf16_bf16)
    bf16_ = AlignedBuffer<uint16_t>(tokens * static_cast<size_t>(widest));
  if (use_int8) {
    int8_ = AlignedBuffer<int8_t>(tokens * static_cast<size_t>(act_i8_stride(widest)));
    int8_scales_ = AlignedBuffer<float>(tokens * static_cast<size_t>((widest + 15) / 16));
    int8_sums_ = AlignedBuffer<int32_t>(int8_scales_.size());
  }
  const int repeats = c.n_heads / c.n_kv_heads;
  scratch_per_thread_ = attention_scratch(c.head_dim, repeats);
  if (any_packed && !use_int8)
    scratch_per_thread_ = std::max(scratch_per_thread_, static_cast<size_t>(packed_scratch(widest)));
  scratch_per_thread_ = (scratch_per_thread_ + 15) / 16 * 16;
  thread_scratch_ = AlignedBuffer<float>(scratch_per_thread_ * static_cast<size_t>(pool_.size()));
  work_.reserve((tokens / kAttentionQueries + tokens + 1) * static_cast<size_t>(c.n_kv_heads));
}

uint64_t Session::workspace_bytes() const {
  uint64_t total = rope_.bytes() + bf16_.bytes() + int8_.bytes() + int8_scales_.bytes() + int8_sums_.bytes() +
                   thread_scratch_.bytes() + work_.capacity() * sizeof(Work);
  for (const AlignedBuffer<float>* b :
       {&residual_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_, &projected_})
    total += b->bytes();
  return total;
}

void Session::check(const Batch& batch) const {
  const ModelConfig& c = model_->config;
  if (batch.tokens.empty() || batch.tokens.size() > static_cast<size_t>(options_.batch_tokens))
    fail("{}: a batch of {} tokens, the session takes 1 to {}", model_->name(), batch.tokens.size(),
         options_.batch_tokens);
  for (const int32_t id : batch.tokens) {
    if (id < 0 || id >= c.vocab_size)
      fail("{}: token id {} is outside the vocabulary of {}", model_->name(), id, c.vocab_size);
  }
  size_t total = 0;
  for (const Segment& s : batch.segments) {
    if (s.slot < 0 || s.slot >= options_.slots || s.start < 0 || s.count < 1 ||
        s.count > options_.context - s.start)
      fail("{}: positions {} to {} of slot {} are outside {} slots of {} tokens", model_->name(), s.start,
           s.start + s.count, s.slot, options_.slots, options_.context);
    total += static_cast<size_t>(s.count);
  }
  NIBBLE_CHECK(total == batch.tokens.size());
}

void Session::embed(const Batch& batch, float* h) {
  const Linear& e = model_->embedding;
  const int64_t hidden = e.k;
  pool_.parallel_for(batch.tokens.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      const int64_t row = batch.tokens[t];
      float* to = h + static_cast<int64_t>(t) * hidden;
      if (e.packed) {
        dequantize_row(*e.packed, row, to);
      } else if (e.dense.dtype == DType::kF32) {
        std::memcpy(to, static_cast<const float*>(e.dense.data) + row * hidden,
                    static_cast<size_t>(hidden) * sizeof(float));
      } else {
        const uint16_t* from = static_cast<const uint16_t*>(e.dense.data) + row * hidden;
        if (e.dense.dtype == DType::kF16) {
          kernels_.from_f16(from, to, hidden);
        } else {
          for (int64_t i = 0; i < hidden; ++i) to[i] = bf16_to_float(from[i]);
        }
      }
    }
  });
}

void Session::norm(const Norm& norm, const float* x, float* y, int64_t rows) {
  const ModelConfig& c = model_->config;
  const int64_t n = c.hidden_size;
  pool_.parallel_for(static_cast<size_t>(rows), 4, [&](size_t begin, size_t end, int) {
    for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r) {
      if (c.norm == NormKind::kRms) {
        kernels_.rms_norm(x + r * n, norm.weight.data(), y + r * n, n, c.norm_eps);
      } else {
        kernels_.layer_norm(x + r * n, norm.weight.data(), norm.bias.data(), y + r * n, n, c.norm_eps);
      }
    }
  });
}

void Session::apply(const Linear& linear, Input& input, float* y) {
  const int64_t m = input.rows, k = linear.k, n = linear.n;
  NIBBLE_CHECK(k == input.k);
  if (!linear.packed) {
    const DenseView& w = linear.dense;
    if (w.dtype == DType::kBF16 && options_.precision.bf16 && kernels_.dense_bf16_bf16) {
      if (!input.has_bf16) {
        pool_.parallel_for(static_cast<size_t>(m * k), 4096, [&](size_t begin, size_t end, int) {
          kernels_.to_bf16(input.x + begin, bf16_.data() + begin, static_cast<int64_t>(end - begin));
        });
        input.has_bf16 = true;
      }
      pool_.parallel_for(static_cast<size_t>(n), 16, [&](size_t begin, size_t end, int) {
        kernels_.dense_bf16_bf16(w, bf16_.data(), k, linear.bias_data(), y, n, m, static_cast<int64_t>(begin),
                                 static_cast<int64_t>(end));
      });
      return;
    }
    const auto dense = w.dtype == DType::kF32    ? kernels_.dense_f32
                       : w.dtype == DType::kBF16 ? kernels_.dense_bf16
                                                 : kernels_.dense_f16;
    pool_.parallel_for(static_cast<size_t>(n), 16, [&](size_t begin, size_t end, int) {
      dense(w, input.x, k, linear.bias_data(), y, n, m, static_cast<int64_t>(begin),
            static_cast<int64_t>(end));
    });
    return;
  }
  const PackedView& w = *linear.packed;
  const size_t panels = static_cast<size_t>(w.format.panels());
  if (!options_.precision.int8) {
    pool_.parallel_for(panels, 1, [&](size_t begin, size_t end, int thread) {
      kernels_.packed_f32(w, input.x, k, linear.bias_data(), y, n, m, static_cast<int64_t>(begin),
                          static_cast<int64_t>(end),
                          thread_scratch_.data() + static_cast<size_t>(thread) * scratch_per_thread_);
    });
    return;
  }
  const int segment = act_segment(w.format);
  const int64_t segments = (k + segment - 1) / segment, stride = act_i8_stride(k);
  if (input.segment != segment) {
    pool_.parallel_for(static_cast<size_t>(m), 1, [&](size_t begin, size_t end, int) {
      const int64_t r = static_cast<int64_t>(begin);
      kernels_.quantize_i8(input.x + r * k, k, static_cast<int64_t>(end) - r, k, segment,
                           int8_.data() + r * stride, int8_scales_.data() + r * segments,
                           int8_sums_.data() + r * segments);
    });
    input.segment = segment;
  }
  const ActI8View act{int8_.data(), int8_scales_.data(), int8_sums_.data(), stride, segment, segments};
  pool_.parallel_for(panels, 1, [&](size_t begin, size_t end, int) {
    kernels_.packed_i8(w, act, linear.bias_data(), y, n, m, static_cast<int64_t>(begin),
                       static_cast<int64_t>(end));
  });
}

void Session::linear(const Linear& linear, const float* x, float* y, int64_t rows) {
  Input input{x, rows, linear.k};
  apply(linear, input, y);
}

void Session::add(float* y, const float* x, int64_t n) {
  pool_.parallel_for(static_cast<size_t>(n), 8192, [&](size_t begin, size_t end, int) {
    kernels_.add(y + begin, x + begin, static_cast<int64_t>(end - begin));
  });
}

void Session::rotate(float* x, int heads, const Batch& batch, float scale) {
  const ModelConfig& c = model_->config;
  const int64_t half = c.rope_dims / 2, head_dim = c.head_dim, width = int64_t{heads} * head_dim;
  int64_t token = 0;
  for (const Segment& s : batch.segments) {
    for (int i = 0; i < s.count; ++i, ++token) {
      const float* table = rope_.data() + int64_t{s.start + i} * half * 2;
      for (int64_t h = 0; h < heads; ++h) {
        float* head = x + token * width + h * head_dim;
        for (int64_t j = 0; j < half; ++j) {
          const float cos = table[2 * j] * scale, sin = table[2 * j + 1] * scale;
          const float a = head[j], b = head[j + half];
          head[j] = a * cos - b * sin;
          head[j + half] = b * cos + a * sin;
        }
        if (scale != 1.0f) {
          for (int64_t j = 2 * half; j < head_dim; ++j) head[j] *= scale;
        }
      }
    }
  }
}

void Session::attention(const Block& block, int layer, const Batch& batch, const float* x, float* a) {
  const ModelConfig& c = model_->config;
  Input input{x, static_cast<int64_t>(batch.tokens.size()), c.hidden_size};
  apply(block.q, input, q_.data());
  apply(block.k, input, k_.data());
  apply(block.v, input, v_.data());
  rotate(q_.data(), c.n_heads, batch, 1.0f / std::sqrt(static_cast<float>(c.head_dim)));
  rotate(k_.data(), c.n_kv_heads, batch, 1.0f);
  write_cache(layer, batch);
  attend(layer, batch, a);
}

std::byte* Session::cache_row(int layer, int slot, bool value, int kv_head, int position) {
  const ModelConfig& c = model_->config;
  size_t row = static_cast<size_t>(layer) * static_cast<size_t>(options_.slots) + static_cast<size_t>(slot);
  row = row * 2 + (value ? 1 : 0);
  row = row * static_cast<size_t>(c.n_kv_heads) + static_cast<size_t>(kv_head);
  row = row * static_cast<size_t>(options_.context) + static_cast<size_t>(position);
  return cache_.data() + row * static_cast<size_t>(c.head_dim) * cache_element_;
}

void Session::write_cache(int layer, const Batch& batch) {
  const ModelConfig& c = model_->config;
  int64_t token = 0;
  for (const Segment& s : batch.segments) {
    for (int i = 0; i < s.count; ++i, ++token) {
      for (int h = 0; h < c.n_kv_heads; ++h) {
        for (const bool value : {false, true}) {
          const float* from = (value ? v_ : k_).data() + token * c.kv_size() + h * c.head_dim;
          std::byte* to = cache_row(layer, s.slot, value, h, s.start + i);
          if (cache_element_ == 2) {
            kernels_.to_f16(from, reinterpret_cast<uint16_t*>(to), c.head_dim);
          } else {
            std::memcpy(to, from, static_cast<size_t>(c.head_dim) * sizeof(float));
          }
        }
      }
    }
  }
}

void Session::attend(int layer, const Batch& batch, float* out) {
  const ModelConfig& c = model_->config;
  work_.clear();
  int64_t token = 0;
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const Segment& s = batch.segments[i];
    for (int first = 0; first < s.count; first += kAttentionQueries) {
      for (int h = 0; h < c.n_kv_heads; ++h)
        work_.push_back({static_cast<int>(i), h, first, std::min(kAttentionQueries, s.count - first), token});
    }
    token += s.count;
  }
  const int repeats = c.n_heads / c.n_kv_heads;
  pool_.parallel_each(work_.size(), [&](size_t index, int thread) {
    const Work& w = work_[index];
    const Segment& s = batch.segments[static_cast<size_t>(w.segment)];
    const int64_t width = c.query_size(),
                  at = (w.token + w.first) * width + int64_t{w.kv_head} * repeats * c.head_dim;
    AttentionTask task;
    task.q = q_.data() + at;
    task.out = out + at;
    task.stride = width;
    task.keys = cache_row(layer, s.slot, false, w.kv_head, 0);
    task.values = cache_row(layer, s.slot, true, w.kv_head, 0);
    task.half_cache = cache_element_ == 2;
    task.first_position = s.start + w.first;
    task.queries = w.count;
    task.repeats = repeats;
    task.head_dim = c.head_dim;
    nibble::attend(kernels_, task,
                   thread_scratch_.data() + static_cast<size_t>(thread) * scratch_per_thread_);
  });
}

void Session::mlp_inner(const Block& block, const float* x, float* y, int64_t rows) {
  const ModelConfig& c = model_->config;
  Input input{x, rows, c.hidden_size};
  const size_t n = static_cast<size_t>(rows * c.intermediate_size);
  if (c.has_gate()) {
    apply(block.gate, input, gate_.data());
    apply(block.up, input, y);
    pool_.parallel_for(n, 4096, [&](size_t begin, size_t end, int) {
      kernels_.silu_mul(gate_.data() + begin, y + begin, y + begin, static_cast<int64_t>(end - begin));
    });
  } else {
    apply(block.up, input, y);
    pool_.parallel_for(n, 4096, [&](size_t begin, size_t end, int) {
      kernels_.gelu_new(y + begin, y + begin, static_cast<int64_t>(end - begin));
    });
  }
}

void Session::block(const Block& b, int layer, const Batch& batch, float* h) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t size = rows * model_->config.hidden_size;
  norm(b.attn_norm, h, normed_.data(), rows);
  attention(b, layer, batch, normed_.data(), attended_.data());
  linear(b.o, attended_.data(), projected_.data(), rows);
  add(h, projected_.data(), size);
  if (!model_->config.parallel_block) norm(b.mlp_norm, h, normed_.data(), rows);
  mlp_inner(b, normed_.data(), up_.data(), rows);
  linear(b.down, up_.data(), projected_.data(), rows);
  add(h, projected_.data(), size);
}

void Session::forward(const Batch& batch) {
  check(batch);
  embed(batch, residual_.data());
  for (size_t layer = 0; layer < model_->blocks.size(); ++layer)
    block(model_->blocks[layer], static_cast<int>(layer), batch, residual_.data());
  norm(model_->final_norm, residual_.data(), normed_.data(), static_cast<int64_t>(batch.tokens.size()));
}

void Session::logits(const float* hidden_rows, int64_t rows, float* out) {
  NIBBLE_CHECK(rows <= options_.batch_tokens);
  linear(model_->head, hidden_rows, out, rows);
}

int64_t Session::logit_rows_at_once() const {
  constexpr int64_t kFloats = int64_t{4} << 20;
  return std::clamp<int64_t>(kFloats / model_->config.vocab_size, 1, std::min(options_.batch_tokens, 128));
}

}  // namespace nibble
