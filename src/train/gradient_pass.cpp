#include "train/gradient_pass.h"

#include <algorithm>

#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of logits at a time
constexpr int64_t kHeadPanel = 512;                 // rows of the head of a task

size_t head_panels_of(const ModelConfig& config) {
  return static_cast<size_t>((config.vocab_size + kHeadPanel - 1) / kHeadPanel);
}

uint64_t floats_of(const TrainedLinear& l) {
  return l.weight.value.empty() ? static_cast<uint64_t>(l.n() * l.k()) : 0;
}

}  // namespace

GradientPass::GradientPass(TrainedModel& model, const GradientOptions& options, ThreadPool& pool)
    : model_(model),
      config_(model.config()),
      options_(options),
      pool_(pool),
      kernels_(nibble::kernels()),
      block_(model.model(), model.blocks.front(), options.batch_tokens, options.context,
             static_cast<size_t>((kHeadPanel + TrainedLinear::kPanel) * config_.hidden_size), pool,
             options.keep_weights ? model.blocks.size() : 1, options.bf16) {
  NIBBLE_CHECK(options.keep_weights || !options.bf16);
  const size_t tokens = static_cast<size_t>(options.batch_tokens), threads = static_cast<size_t>(pool.size());
  const size_t hidden = static_cast<size_t>(config_.hidden_size);
  for (size_t i = 0; i <= model.blocks.size(); ++i) stream_.emplace_back(tokens * hidden);
  for (size_t i = 0; i < (options.recompute ? 1 : model.blocks.size()); ++i)
    kept_.emplace_back(config_, tokens);
  normed_ = AlignedBuffer<float>(tokens * hidden);
  gradient_ = AlignedBuffer<float>(tokens * hidden);
  dx_ = AlignedBuffer<float>(tokens * hidden);
  const int64_t vocab = config_.vocab_size;
  head_rows_ = std::clamp<int64_t>(kLogitBytes / (4 * vocab), 1, options.batch_tokens);
  logits_ = AlignedBuffer<float>(static_cast<size_t>(head_rows_ * vocab));
  panel_out_ = AlignedBuffer<float>(static_cast<size_t>(head_rows_) * hidden * threads);
  if (!options.keep_weights || floats_of(model.head()) == 0) return;
  if (options.bf16) {
    rounded_head_ = RoundedWeight(model.head(), *options.bf16, pool);
    return;
  }
  head_weights_ = AlignedBuffer<float>(floats_of(model.head()));
  model.head().materialize(head_weights_.data(), pool);
}

uint64_t GradientPass::weight_bytes(TrainedModel& model) {
  uint64_t floats = floats_of(model.head());
  for (const TrainedBlock& block : model.blocks) {
    for (const TrainedLinear& l : block.linears) floats += floats_of(l);
  }
  return floats * sizeof(float);
}

uint64_t GradientPass::workspace_bytes() const {
  uint64_t total = block_.bytes() + rounded_head_.bytes() + room_.bytes();
  for (const AlignedBuffer<float>* b : {&normed_, &gradient_, &dx_, &head_weights_, &logits_, &panel_out_})
    total += b->bytes();
  for (const auto& b : stream_) total += b.bytes();
  for (const BlockActivations& a : kept_) total += a.bytes();
  return total;
}

void GradientPass::embed(const Batch& batch) {
  const int64_t hidden = config_.hidden_size;
  pool_.parallel_for(batch.tokens.size(), 8, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      model_.embedding().rows(batch.tokens[t], 1, stream_[0].data() + static_cast<int64_t>(t) * hidden);
  });
}

void GradientPass::load(size_t i, Since since) {
  if (!options_.keep_weights) {
    block_.load(model_.blocks[i]);
  } else if (since == Since::kChanged) {
    block_.load(model_.blocks[i], i);
  } else {
    block_.use(i);
  }
}

void GradientPass::forward(const Batch& batch, Since since) {
  block_.begin(batch);
  embed(batch);
  for (size_t i = 0; i < model_.blocks.size(); ++i) {
    load(i, since);
    block_.forward(model_.blocks[i], stream_[i].data(), kept_[options_.recompute ? 0 : i],
                   stream_[i + 1].data());
  }
  block_.norm(model_.final_norm, stream_.back().data(), normed_.data());
}

const float* GradientPass::head_rows(int64_t first, int64_t count, float* scratch) const {
  const TrainedLinear& head = model_.head();
  if (!head.weight.value.empty()) return head.weight.value.data() + first * config_.hidden_size;
  if (options_.keep_weights) return head_weights_.data() + first * config_.hidden_size;
  head.rows(first, count, scratch);
  return scratch;
}

void GradientPass::logits(const float* x, int64_t rows) {
  const TrainedLinear& head = model_.head();
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  const float* bias = head.bias_data();
  if (rounded_head_) {
    rounded_head_.forward(x, rows, bias, logits_.data(), room_, pool_);
    return;
  }
  pool_.parallel_each(head_panels_of(config_), [&](size_t panel, int thread) {
    const int64_t first = static_cast<int64_t>(panel) * kHeadPanel,
                  count = std::min(kHeadPanel, vocab - first);
    const float* w = head_rows(first, count, block_.scratch(thread));
    if (bias) {
      for (int64_t r = 0; r < rows; ++r) std::copy_n(bias + first, count, logits_.data() + r * vocab + first);
    }
    gemm(1, {x, hidden}, {w, hidden, true}, bias ? 1 : 0, logits_.data() + first, vocab, rows, count, hidden);
  });
}

void GradientPass::head_backward(const float* x, int64_t rows, const int64_t* to) {
  TrainedLinear& head = model_.head();
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  const size_t sums = static_cast<size_t>(rows * hidden);
  int parts = 1;
  head.accumulate_bias(logits_.data(), rows, pool_);
  if (rounded_head_) {
    rounded_head_.backward(logits_.data(), rows, panel_out_.data(), room_, pool_);
  } else {
    parts = pool_.size();
    std::fill_n(panel_out_.data(), sums * static_cast<size_t>(parts), 0.0f);
    // Panels are dealt out in fixed pieces, so that the sums have one order.
    pool_.parallel_for(head_panels_of(config_), 1, [&](size_t begin, size_t end, int thread) {
      float* sum = panel_out_.data() + static_cast<size_t>(thread) * sums;
      for (int64_t panel = static_cast<int64_t>(begin); panel < static_cast<int64_t>(end); ++panel) {
        const int64_t first = panel * kHeadPanel, count = std::min(kHeadPanel, vocab - first);
        const float* w = head_rows(first, count, block_.scratch(thread));
        gemm(1, {logits_.data() + first, vocab}, {w, hidden}, 1, sum, hidden, rows, hidden, count);
        for (int64_t at = 0; at < count; at += TrainedLinear::kPanel)
          head.accumulate_rows(first + at, std::min(TrainedLinear::kPanel, count - at), x,
                               logits_.data() + first + at, vocab, rows,
                               block_.scratch(thread) + kHeadPanel * hidden);
      }
    });
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int part = 0; part < parts; ++part)
      kernels_.add(dx_.data() + to[i] * hidden,
                   panel_out_.data() + static_cast<size_t>(part) * sums + i * hidden, hidden);
  }
}

double GradientPass::head(const Batch& batch, Loss& loss, bool gradients) {
  const int64_t hidden = config_.hidden_size;
  const std::vector<int64_t> counted = loss.begin(batch);
  const int64_t counting = static_cast<int64_t>(counted.size());
  // The rows that count, moved together.
  for (int64_t i = 0; i < counting; ++i) {
    const int64_t from = counted[static_cast<size_t>(i)];
    if (from != i) std::copy_n(normed_.data() + from * hidden, hidden, normed_.data() + i * hidden);
  }
  if (gradients) std::fill_n(dx_.data(), block_.tokens() * hidden, 0.0f);
  double total = 0;
  for (int64_t row = 0; row < counting; row += head_rows_) {
    const int64_t rows = std::min(head_rows_, counting - row);
    const float* x = normed_.data() + row * hidden;
    logits(x, rows);
    total += loss.rows(row, rows, logits_.data());
    if (gradients) head_backward(x, rows, counted.data() + row);
  }
  return total;
}

void GradientPass::embedding_gradient(const Batch& batch) {
  Parameter& weight = model_.embedding().weight;
  if (!weight.trained()) return;
  const int64_t hidden = config_.hidden_size;
  for (int64_t t = 0; t < block_.tokens(); ++t)
    kernels_.add(weight.gradient.data() + int64_t{batch.tokens[static_cast<size_t>(t)]} * hidden,
                 gradient_.data() + t * hidden, hidden);
}

double GradientPass::loss(const Batch& batch, Loss& loss, Since since) {
  forward(batch, since);
  return head(batch, loss, false);
}

double GradientPass::gradients(const Batch& batch, Loss& loss, Since since) {
  forward(batch, since);
  const double value = head(batch, loss, true);
  std::fill_n(gradient_.data(), block_.tokens() * config_.hidden_size, 0.0f);
  block_.norm_backward(model_.final_norm, stream_.back().data(), dx_.data(), gradient_.data());
  for (size_t i = model_.blocks.size(); i-- > 0;) {
    TrainedBlock& block = model_.blocks[i];
    BlockActivations& act = kept_[options_.recompute ? 0 : i];
    // The last block's weights and activations are still there.
    if (i + 1 < model_.blocks.size()) {
      load(i, Since::kUnchanged);
      if (options_.recompute) block_.forward(block, stream_[i].data(), act, stream_[i + 1].data());
    }
    block_.backward(block, stream_[i].data(), act, gradient_.data(),
                    i > 0 || model_.embedding().weight.trained());
  }
  embedding_gradient(batch);
  return value;
}

}  // namespace nibble
