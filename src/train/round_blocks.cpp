#include "train/round_blocks.h"

#include <algorithm>
#include <cmath>

#include "base/memory_usage.h"
#include "base/sha256.h"
#include "base/stopwatch.h"
#include "kernels/dense_rows.h"
#include "model/session.h"
#include "quant/method.h"
#include "train/block_pass.h"
#include "train/loss.h"
#include "train/rounding.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr float kEndsShare = 0.2f;  // of the shifts' rate, of the factors of the ends

// Everything that the result depends on.
std::string key_of(const Model& original, const Model& quantized, const Calibration& text, size_t held_out,
                   const RoundingOptions& o, int threads) {
  Sha256 hash;
  hash.update(checkpoint_outline_sha256(original.checkpoint()));
  hash.update(checkpoint_sha256(quantized.checkpoint()));
  hash.update(fmt::format("{} {} {} {} {} {} {} {} {}", text.sha256, held_out, o.steps, o.batch, o.sequences,
                          o.rate, o.checks, kernels().name, threads));
  return hash.hex();
}

class BlockRounding {
 public:
  BlockRounding(std::shared_ptr<const Model> original, const std::shared_ptr<Model>& quantized,
                const Calibration& text, size_t held_out, const RoundingOptions& o, ThreadPool& pool,
                const RoundingProgress& progress)
      : original_(std::move(original)),
        quantized_(quantized),
        text_(text),
        o_(o),
        pool_(pool),
        progress_(progress),
        hidden_(original_->config.hidden_size),
        held_out_from_(text.samples.size() - held_out),
        tokens_(o.batch * static_cast<int>(text.longest())),
        random_(0),
        pass_(*quantized_, TrainedBlock(*quantized_, 0, {}, random_, pool), tokens_,
              static_cast<int>(text.longest()), 0, pool),
        activations_(quantized_->config, static_cast<size_t>(tokens_)) {
    const auto make = [&](int64_t rows) { return AlignedBuffer<float>(static_cast<size_t>(rows * hidden_)); };
    stream_ = make(text.tokens);
    target_ = make(text.tokens);
    input_ = make(tokens_);
    output_ = make(tokens_);
    wanted_ = make(tokens_);
    int64_t at = 0;
    for (const auto& sample : text.samples) {
      first_token_.push_back(at);
      for (const int32_t token : sample) {
        original_->embedding.row(token, target_.data() + at * hidden_);
        quantized_->embedding.row(token, stream_.data() + at * hidden_);
        ++at;
      }
    }
  }

  void run(const FinishedBlocks* finished, QuantizedTensors& out, RoundingReport& report) {
    const int total = static_cast<int>(quantized_->blocks.size());
    for (int layer = 0; layer < total; ++layer) {
      layer_ = layer;
      const std::string facts = fmt::format("model.layers.{}.rounding", layer);
      TrainedBlock block(*quantized_, static_cast<size_t>(layer), {}, random_, pool_);
      advance_original();
      auto done = finished ? finished->load(layer) : std::nullopt;
      if (!done) {
        done.emplace();
        const RoundingReport::OfBlock learned = learn(block, *done);
        done->floats[facts] = {static_cast<float>(learned.before), static_cast<float>(learned.after),
                               static_cast<float>(learned.best_step), static_cast<float>(learned.changed)};
        if (finished) finished->save(layer, *done, 0);
      }
      const std::vector<float>& kept = done->floats.at(facts);
      report.blocks.push_back(
          {double{kept.at(0)}, double{kept.at(1)}, static_cast<int>(kept.at(2)), double{kept.at(3)}});
      for (TrainedLinear& linear : block.linears) {
        if (const auto better = done->packed.find(linear.name()); better != done->packed.end())
          linear.weight.value = dequantize(unpack(better->second.buffers.view(better->second.format)), pool_);
      }
      out.packed.merge(done->packed);
      advance(block, stream_);
      tell(o_.steps, report.blocks.back().after);
    }
  }

 private:
  void tell(int step, double error) const {
    if (progress_)
      progress_(layer_ * o_.steps + step, static_cast<int>(quantized_->blocks.size()) * o_.steps, error);
  }
  // body(batch, first token) for batches of samples from `from` to `to`.
  template <typename Body>
  void for_batches(size_t from, size_t to, const Body& body) {
    for (size_t i = from; i < to;) {
      batch_.clear();
      const int64_t first = first_token_[i];
      for (int n = 0; n < o_.batch && i < to; ++n, ++i) batch_.add(0, 0, text_.samples[i]);
      pass_.begin(batch_);
      body(first);
    }
  }
  // The stream goes on through the block.
  void advance(TrainedBlock& block, AlignedBuffer<float>& stream) {
    pass_.load(block);
    for_batches(0, text_.samples.size(), [&](int64_t first) {
      float* h = stream.data() + first * hidden_;
      pass_.forward(block, h, activations_, output_.data());
      std::copy_n(output_.data(), pass_.tokens() * hidden_, h);
    });
  }
  void advance_original() {
    TrainedBlock block(*original_, static_cast<size_t>(layer_), {}, random_, pool_);
    advance(block, target_);
  }
  // Of the batch in hand, whose outputs lie in output_; they become the gradient, per token of `tokens`.
  double error(const float* wanted, double tokens) {
    const int64_t rows = pass_.tokens();
    std::vector<double> losses(static_cast<size_t>(rows));
    pool_.parallel_for(losses.size(), 4, [&](size_t begin, size_t end, int) {
      for (size_t t = begin; t < end; ++t) {
        float* out = output_.data() + static_cast<int64_t>(t) * hidden_;
        const float* to = wanted + static_cast<int64_t>(t) * hidden_;
        double apart = 0, length = 0;
        for (int64_t i = 0; i < hidden_; ++i) {
          out[i] -= to[i];
          apart += double{out[i]} * double{out[i]};
          length += double{to[i]} * double{to[i]};
        }
        if (!(length > 0)) length = 1;
        losses[t] = apart / length / tokens;
        const float scale = static_cast<float>(2 / length / tokens);
        for (int64_t i = 0; i < hidden_; ++i) out[i] *= scale;
      }
    });
    double total = 0;
    for (const double loss : losses) total += loss;
    return total;
  }
  double held_out_error(TrainedBlock& block) {
    const double tokens = static_cast<double>(text_.tokens - first_token_[held_out_from_]);
    double total = 0;
    pass_.load(block);
    for_batches(held_out_from_, text_.samples.size(), [&](int64_t first) {
      pass_.forward(block, stream_.data() + first * hidden_, activations_, output_.data());
      total += error(target_.data() + first * hidden_, tokens);
    });
    return total;
  }
  // The step's sequences in batch_, input_ and wanted_.
  void draw(int step) {
    const size_t taken = std::min(held_out_from_, static_cast<size_t>(o_.sequences));
    batch_.clear();
    int64_t row = 0;
    for (int i = 0; i < o_.batch; ++i) {
      const size_t sample =
          (static_cast<size_t>(step) * static_cast<size_t>(o_.batch) + static_cast<size_t>(i)) % taken;
      const int64_t count = static_cast<int64_t>(text_.samples[sample].size()), from = first_token_[sample];
      std::copy_n(stream_.data() + from * hidden_, count * hidden_, input_.data() + row * hidden_);
      std::copy_n(target_.data() + from * hidden_, count * hidden_, wanted_.data() + row * hidden_);
      batch_.add(0, 0, text_.samples[sample]);
      row += count;
    }
    pass_.begin(batch_);
  }

  RoundingReport::OfBlock learn(TrainedBlock& block, QuantizedTensors& out) {
    std::vector<TrainedLinear*> linears;
    std::vector<LearnedRounding> learned;
    const Block& from = original_->blocks[static_cast<size_t>(layer_)];
    for (TrainedLinear& linear : block.linears) {
      if (!linear.is_packed()) continue;
      const auto all = from.linears();
      const auto same =
          std::find_if(all.begin(), all.end(), [&](const Linear* l) { return l->name == linear.name(); });
      if (same == all.end() || (*same)->packed)
        fail("{}: not in the original model as a dense weight", linear.name());
      linears.push_back(&linear);
      learned.emplace_back(linear.stored(), dense_values((*same)->dense), pool_);
      linear.weight.value = dequantize(learned.back().start(), pool_);
      linear.weight.gradient.assign(linear.weight.value.size(), 0.0f);
    }
    RoundingReport::OfBlock result;
    result.before = result.after = held_out_error(block);
    std::vector<QuantizedMatrix> best;
    for (int step = 1; step <= o_.steps && !linears.empty(); ++step) {
      for (size_t i = 0; i < linears.size(); ++i) learned[i].values(linears[i]->weight.value.data(), pool_);
      draw(step - 1);
      pass_.load(block);
      pass_.forward(block, input_.data(), activations_, output_.data());
      const double loss = error(wanted_.data(), static_cast<double>(pass_.tokens()));
      pass_.backward(block, input_.data(), activations_, output_.data(), false);
      const float rate = static_cast<float>(o_.rate * (1 - static_cast<double>(step - 1) / o_.steps));
      for (size_t i = 0; i < linears.size(); ++i) {
        std::vector<float>& gradient = linears[i]->weight.gradient;
        learned[i].step(gradient.data(), rate, kEndsShare * rate, pool_);
        std::fill(gradient.begin(), gradient.end(), 0.0f);
      }
      tell(step - 1, loss);
      if (int64_t{step} * o_.checks / o_.steps == int64_t{step - 1} * o_.checks / o_.steps) continue;
      for (size_t i = 0; i < linears.size(); ++i) learned[i].values(linears[i]->weight.value.data(), pool_);
      const double now = held_out_error(block);
      if (!(now < result.after)) continue;
      result.after = now;
      result.best_step = step;
      best.clear();
      for (const LearnedRounding& l : learned) best.push_back(l.stored(pool_));
    }
    int64_t changed = 0, weights = 0;
    for (size_t i = 0; i < linears.size(); ++i) {
      linears[i]->weight.gradient.clear();
      weights += static_cast<int64_t>(learned[i].start().codes.size());
      if (best.empty()) {
        linears[i]->weight.value = dequantize(learned[i].start(), pool_);
        continue;
      }
      changed += learned[i].changed(best[i]);
      out.packed[linears[i]->name()] = {best[i].format, pack(best[i], &pool_), "rounding"};
    }
    if (weights > 0) result.changed = static_cast<double>(changed) / static_cast<double>(weights);
    return result;
  }

  const std::shared_ptr<const Model> original_;
  const std::shared_ptr<const Model> quantized_;
  const Calibration& text_;
  const RoundingOptions& o_;
  ThreadPool& pool_;
  const RoundingProgress& progress_;
  const int64_t hidden_;
  const size_t held_out_from_;
  const int tokens_;  // of a batch
  Random random_;     // draws adapters, of which there are none
  BlockPass pass_;
  BlockActivations activations_;
  int layer_ = 0;
  Batch batch_;
  std::vector<int64_t> first_token_;      // of each sample
  AlignedBuffer<float> stream_, target_;  // [tokens, hidden]: before the block; the original's after it
  AlignedBuffer<float> input_, output_, wanted_;  // of a batch
};

// Mean over the text's last `held_out` samples.
double held_out_kl(const std::shared_ptr<const Model>& original,
                   const std::shared_ptr<const Model>& quantized, const Calibration& text, size_t held_out,
                   ThreadPool& pool) {
  const int context = static_cast<int>(text.longest());
  const SessionOptions options{.context = context, .batch_tokens = context, .precision = Precision::exact()};
  Session teacher(original, options, pool), student(quantized, options, pool);
  Divergence divergence(teacher, 1, pool);
  const int64_t at_once = student.logit_rows_at_once();
  AlignedBuffer<float> logits(static_cast<size_t>(at_once * quantized->config.vocab_size));
  double sum = 0, tokens = 0;
  Batch batch;
  for (size_t i = text.samples.size() - held_out; i < text.samples.size(); ++i) {
    batch.clear();
    batch.add(0, 0, text.samples[i]);
    divergence.begin(batch);
    student.forward(batch);
    const int64_t rows = static_cast<int64_t>(batch.tokens.size());
    for (int64_t row = 0; row < rows; row += at_once) {
      const int64_t count = std::min(at_once, rows - row);
      student.row_logits(static_cast<size_t>(row), static_cast<size_t>(count), logits.data());
      sum += divergence.rows(row, count, logits.data()) * static_cast<double>(rows);
    }
    tokens += static_cast<double>(rows);
  }
  return sum / tokens;
}

}  // namespace

void RoundingOptions::validate() const {
  if (steps < 1 || steps > 1'000'000)
    throw UsageError(fmt::format("--tune-block-steps {}: expected 1 to 1000000", steps));
  if (batch < 1 || batch > 1024) throw UsageError(fmt::format("--tune-batch {}: expected 1 to 1024", batch));
  if (!(rate > 0) || rate > 1)
    throw UsageError(fmt::format("--tune-rounding-rate {}: expected more than 0, at most 1", rate));
}

OrderedJson to_json(const RoundingReport& report, const RoundingOptions& o) {
  OrderedJson blocks = OrderedJson::array();
  for (const auto& b : report.blocks)
    blocks.push_back({{"error_before", b.before},
                      {"error_after", b.after},
                      {"best_step", b.best_step},
                      {"changed", b.changed}});
  return {{"steps", o.steps},
          {"batch", o.batch},
          {"rate", o.rate},
          {"kl_before", report.kl_before},
          {"kl_after", report.kl_after},
          {"kept", report.kept()},
          {"seconds", report.seconds},
          {"peak_rss", report.peak_rss},
          {"blocks", blocks}};
}

RoundingReport round_blocks(std::shared_ptr<const Model> original, const std::shared_ptr<Model>& quantized,
                            const Calibration& text, size_t held_out, const RoundingOptions& o,
                            const fs::path& folder, ThreadPool& pool, const RoundingProgress& progress,
                            QuantizedTensors& buffers) {
  const Stopwatch watch;
  NIBBLE_CHECK(held_out > 0 && held_out < text.samples.size());
  const auto linears = quantized->linears();
  if (std::none_of(linears.begin(), linears.end(), [](const Linear* l) { return l->packed.has_value(); }))
    fail("{}: no layer has integers to tune", quantized->name());
  RoundingReport report;
  report.kl_before = held_out_kl(original, quantized, text, held_out, pool);
  {
    std::optional<FinishedBlocks> finished;
    if (!folder.empty())
      finished.emplace(folder, key_of(*original, *quantized, text, held_out, o, pool.size()));
    BlockRounding(original, quantized, text, held_out, o, pool, progress)
        .run(finished ? &*finished : nullptr, buffers, report);
  }
  const std::vector<Block> before = quantized->blocks;
  for (Block& block : quantized->blocks) {
    for (Linear* linear : block.linears()) {
      if (const auto found = buffers.packed.find(linear->name); found != buffers.packed.end())
        linear->packed = found->second.buffers.view(found->second.format);
    }
  }
  report.kl_after = held_out_kl(original, quantized, text, held_out, pool);
  if (!report.kept()) quantized->blocks = before;
  report.seconds = watch.seconds();
  report.peak_rss = peak_rss_bytes();
  return report;
}

}  // namespace nibble
