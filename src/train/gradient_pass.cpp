#include "train/gradient_pass.h"

#include <algorithm>

#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of logits at a time
constexpr int64_t kHeadPanel = 512;                 // rows of the head of a task

}  // namespace

GradientPass::GradientPass(TrainedModel& model, const GradientOptions& options, ThreadPool& pool)
    : model_(model),
      config_(model.config()),
      options_(options),
      pool_(pool),
      kernels_(nibble::kernels()),
      block_(model.model(), model.blocks.front(), options.batch_tokens, options.context,
             static_cast<size_t>((kHeadPanel + TrainedLinear::kPanel) * config_.hidden_size), pool) {
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
}

uint64_t GradientPass::workspace_bytes() const {
  uint64_t total = block_.bytes();
  for (const AlignedBuffer<float>* b : {&normed_, &gradient_, &dx_, &logits_, &panel_out_})
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

void GradientPass::forward(const Batch& batch) {
  block_.begin(batch);
  embed(batch);
  for (size_t i = 0; i < model_.blocks.size(); ++i) {
    block_.load(model_.blocks[i]);
    block_.forward(model_.blocks[i], stream_[i].data(), kept_[options_.recompute ? 0 : i],
                   stream_[i + 1].data());
  }
  block_.norm(model_.final_norm, stream_.back().data(), normed_.data());
}

double GradientPass::head(const Batch& batch, Loss& loss, bool gradients) {
  TrainedLinear& head = model_.head();
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size, tokens = block_.tokens();
  const size_t panels = static_cast<size_t>((vocab + kHeadPanel - 1) / kHeadPanel);
  const float* whole = head.weight.value.empty() ? nullptr : head.weight.value.data();
  const auto panel_weight = [&](int64_t first, int64_t count, float* scratch) -> const float* {
    if (whole) return whole + first * hidden;
    head.rows(first, count, scratch);
    return scratch;
  };
  loss.begin(batch);
  double total = 0;
  for (int64_t row = 0; row < tokens; row += head_rows_) {
    const int64_t rows = std::min(head_rows_, tokens - row);
    const float* x = normed_.data() + row * hidden;
    float* dx = dx_.data() + row * hidden;
    std::fill_n(dx, rows * hidden, 0.0f);
    if (!loss.counts(row, rows)) continue;
    pool_.parallel_each(panels, [&](size_t panel, int thread) {
      const int64_t first = static_cast<int64_t>(panel) * kHeadPanel,
                    count = std::min(kHeadPanel, vocab - first);
      const float* w = panel_weight(first, count, block_.scratch(thread));
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
        const float* w = panel_weight(first, count, block_.scratch(thread));
        gemm(1, {logits_.data() + first, vocab}, {w, hidden}, 1, sum, hidden, rows, hidden, count);
        for (int64_t at = 0; at < count; at += TrainedLinear::kPanel)
          head.accumulate_rows(first + at, std::min(TrainedLinear::kPanel, count - at), x,
                               logits_.data() + first + at, vocab, rows,
                               block_.scratch(thread) + kHeadPanel * hidden);
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
  for (int64_t t = 0; t < block_.tokens(); ++t)
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
  std::fill_n(gradient_.data(), block_.tokens() * config_.hidden_size, 0.0f);
  block_.norm_backward(model_.final_norm, stream_.back().data(), dx_.data(), gradient_.data());
  for (size_t i = model_.blocks.size(); i-- > 0;) {
    TrainedBlock& block = model_.blocks[i];
    BlockActivations& act = kept_[options_.recompute ? 0 : i];
    // The last block's weights and activations are still there.
    if (i + 1 < model_.blocks.size()) {
      block_.load(block);
      if (options_.recompute) block_.forward(block, stream_[i].data(), act, stream_[i + 1].data());
    }
    block_.backward(block, stream_[i].data(), act, gradient_.data());
  }
  embedding_gradient(batch);
  return value;
}

}  // namespace nibble
