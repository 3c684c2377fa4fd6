#include "model/session.h"

#include <algorithm>
#include <cmath>

#include "model/attention.h"
#include "model/rope.h"

namespace nibble {
Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options, ThreadPool& pool)
    : ForwardPass(std::move(model), options),
      pool_(pool),
      kernels_(nibble::kernels()),
      cache_(model_->config, options.slots, options.context, options.precision.cache, kernels_),
      linears_(*model_, options.precision, options.batch_tokens,
               std::min(options.slots, options.batch_tokens), options.expect_packed, kernels_, pool) {
  const ModelConfig& c = model_->config;
  const size_t tokens = static_cast<size_t>(options_.batch_tokens);
  const std::vector<float> table = rope_table(*model_, options_.context);
  rope_ = AlignedBuffer<float>(table.size());
  std::copy(table.begin(), table.end(), rope_.data());
  const size_t hidden = static_cast<size_t>(c.hidden_size), inner = static_cast<size_t>(c.intermediate_size);
  residual_ = AlignedBuffer<float>(tokens * hidden);
  normed_ = AlignedBuffer<float>(tokens * hidden);
  q_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.query_size()));
  k_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.kv_size()));
  v_ = AlignedBuffer<float>(tokens * static_cast<size_t>(c.kv_size()));
  // These two hold what the projections out of them wait for, and in turn each other's projection.
  attended_ = AlignedBuffer<float>(tokens * std::max(static_cast<size_t>(c.query_size()), hidden));
  up_ = AlignedBuffer<float>(tokens * std::max(inner, hidden));
  if (c.has_gate()) gate_ = AlignedBuffer<float>(tokens * inner);

  const int repeats = c.n_heads / c.n_kv_heads;
  // Where linears round what they multiply, too.
  attends_by_tiles_ = kernels_.attend_tiles && options.precision.bf16 && options.precision.int8;
  scratch_per_thread_ = attention_scratch(c.head_dim, repeats, attends_by_tiles_);
  thread_scratch_ = AlignedBuffer<float>(scratch_per_thread_ * static_cast<size_t>(pool_.size()));
  positions_.reserve(tokens);
  work_.reserve((tokens / kAttentionQueries + tokens + 1) * static_cast<size_t>(c.n_kv_heads));
}

uint64_t Session::workspace_bytes() const {
  uint64_t total = reader_.bytes() + rope_.bytes() + linears_.bytes() + thread_scratch_.bytes() +
                   work_.capacity() * sizeof(Work) + positions_.capacity() * sizeof(Position);
  for (const AlignedBuffer<float>* b : {&residual_, &normed_, &q_, &k_, &v_, &attended_, &gate_, &up_})
    total += b->bytes();
  return total;
}

void Session::embed(const Batch& batch, float* h) {
  const Linear& e = model_->embedding;
  const int64_t hidden = e.k;
  pool_.parallel_for(batch.tokens.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      e.row(batch.tokens[t], h + static_cast<int64_t>(t) * hidden, kernels_);
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

void Session::linear(const Linear& linear, const float* x, float* y, int64_t rows) {
  const LinearCall call{&linear, y};
  linears_.run(std::span(&call, 1), x, rows);
}

void Session::add(float* y, const float* x, int64_t n) {
  pool_.parallel_for(static_cast<size_t>(n), 8192, [&](size_t begin, size_t end, int) {
    kernels_.add(y + begin, x + begin, static_cast<int64_t>(end - begin));
  });
}

void Session::find_positions(const Batch& batch) {
  positions_.clear();
  for (const Segment& s : batch.segments) {
    for (int i = 0; i < s.count; ++i) positions_.push_back({s.slot, s.start + i});
  }
}

void Session::rotate(float* x, int heads, int64_t token, float scale) {
  const ModelConfig& c = model_->config;
  const int64_t half = c.rope_dims / 2, head_dim = c.head_dim, width = int64_t{heads} * head_dim;
  const float* table = rope_.data() + int64_t{positions_[static_cast<size_t>(token)].at} * half * 2;
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

void Session::attention(const Block& block, int layer, const Batch& batch, const float* x, float* a) {
  const ModelConfig& c = model_->config;
  const LinearCall calls[] = {{&block.q, q_.data()}, {&block.k, k_.data()}, {&block.v, v_.data()}};
  linears_.run(calls, x, static_cast<int64_t>(batch.tokens.size()));
  find_positions(batch);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  pool_.parallel_for(positions_.size(), 4, [&](size_t begin, size_t end, int) {
    for (int64_t token = static_cast<int64_t>(begin); token < static_cast<int64_t>(end); ++token) {
      rotate(q_.data(), c.n_heads, token, scale);
      rotate(k_.data(), c.n_kv_heads, token, 1.0f);
      const auto [slot, position] = positions_[static_cast<size_t>(token)];
      cache_.write(layer, slot, position, k_.data() + token * c.kv_size(), v_.data() + token * c.kv_size());
    }
  });
  attend(layer, batch, a);
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
    const Work& w = work_[work_.size() - 1 - index];  // the last queries see the most keys: they first
    const Segment& s = batch.segments[static_cast<size_t>(w.segment)];
    const int64_t width = c.query_size(),
                  at = (w.token + w.first) * width + int64_t{w.kv_head} * repeats * c.head_dim;
    AttentionTask task;
    task.q = q_.data() + at;
    task.out = out + at;
    task.stride = width;
    task.keys = cache_.keys(layer, s.slot, w.kv_head);
    task.values = cache_.values(layer, s.slot, w.kv_head);
    task.first_position = s.start + w.first;
    task.queries = w.count;
    task.repeats = repeats;
    task.head_dim = c.head_dim;
    task.by_tiles = attends_by_tiles_ && w.segment >= batch.found;
    nibble::attend(kernels_, task,
                   thread_scratch_.data() + static_cast<size_t>(thread) * scratch_per_thread_);
  });
}

void Session::mlp_inner(const Block& block, const float* x, float* y, int64_t rows) {
  linears_.run_inner(block, x, rows, gate_.data(), y);
}

void Session::block(const Block& b, int layer, const Batch& batch, float* h) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  norm(b.attn_norm, h, normed_.data(), rows);
  attention(b, layer, batch, normed_.data(), attended_.data());
  linears_.run_added(b.o, attended_.data(), rows, up_.data(), h);
  if (!model_->config.parallel_block) norm(b.mlp_norm, h, normed_.data(), rows);
  linears_.run_mlp(b, normed_.data(), rows, gate_.data(), up_.data(), attended_.data(), h);
}

void Session::forward(const Batch& batch) {
  check(batch);
  linears_.expect(batch.found);
  embed(batch, residual_.data());
  for (size_t layer = 0; layer < model_->blocks.size(); ++layer)
    block(model_->blocks[layer], static_cast<int>(layer), batch, residual_.data());
  norm(model_->final_norm, residual_.data(), normed_.data(), static_cast<int64_t>(batch.tokens.size()));
}

void Session::logits(const float* hidden_rows, int64_t rows, float* out, bool to_go_on) {
  NIBBLE_CHECK(rows <= options_.batch_tokens);
  linears_.expect(to_go_on ? rows : 0);
  linear(model_->head, hidden_rows, out, rows);
}

void Session::row_logits(size_t first, size_t count, float* out) {
  logits(hidden() + first * static_cast<size_t>(model_->config.hidden_size), static_cast<int64_t>(count),
         out);
}

void Session::score(std::span<const TokenQuestion> questions, std::span<TokenScore> scores) {
  reader_.score(*this, questions, scores);
}

void Session::argmax(std::span<const size_t> rows, std::span<int32_t> best) {
  reader_.argmax(*this, rows, best);
}

}  // namespace nibble
