#include "quant/analysis.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/dense_rows.h"
#include "quant/layer.h"
#include "quant/methods.h"
#include "quant/statistics.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

constexpr int kWindow = 256;

struct Probed {
  Linear Block::*linear;
  int stage;  // which of the block's inputs it reads
};
constexpr std::array<Probed, 7> kProbed = {{{&Block::q, 0},
                                            {&Block::k, 0},
                                            {&Block::v, 0},
                                            {&Block::o, 1},
                                            {&Block::gate, 2},
                                            {&Block::up, 2},
                                            {&Block::down, 3}}};

// Weights rounded, as a dense linear.
class Rounded {
 public:
  Rounded(const Linear& linear, const std::vector<float>& weight, const LayerPlan& plan, ThreadPool& pool)
      : linear_(linear) {
    const PackedFormat format = plan.format(linear.n, linear.k);
    values_ = dequantize(quantize_rtn(weight, {}, {format, 0, false, true}, pool).matrix, pool);
    linear_.dense = {DType::kF32, values_.data(), linear.n, linear.k};
  }
  Rounded(const Rounded&) = delete;
  Rounded& operator=(const Rounded&) = delete;
  const Linear& linear() const { return linear_; }
  const std::vector<float>& values() const { return values_; }

 private:
  Linear linear_;
  std::vector<float> values_;
};

class Analyzer {
 public:
  Analyzer(std::shared_ptr<const Model> model, const Calibration& calibration, const AnalysisOptions& options,
           const DivergenceFn& divergence, ThreadPool& pool)
      : model_(std::move(model)),
        calibration_(calibration),
        options_(options),
        divergence_(divergence),
        pool_(pool),
        session_(model_, session_options(calibration), pool) {}

  Analysis run(const AnalysisProgress& progress) {
    const ModelConfig& c = model_->config;
    Analysis out;
    out.options = options_;
    out.tokens = calibration_.tokens;
    embed();
    for (int layer = 0; layer < c.n_layers; ++layer) {
      if (progress) progress(layer, c.n_layers);
      analyze(layer, out);
    }
    out.kl_positions = static_cast<int64_t>(base_logits_.size()) / c.vocab_size;
    if (progress) progress(c.n_layers, c.n_layers);
    return out;
  }

 private:
  static SessionOptions session_options(const Calibration& calibration) {
    size_t longest = kWindow;
    for (const auto& sample : calibration.samples) longest = std::max(longest, sample.size());
    const int tokens = static_cast<int>(longest);
    return {.slots = 1, .context = tokens, .batch_tokens = tokens, .precision = {}};
  }

  void embed() {
    const size_t hidden = static_cast<size_t>(model_->config.hidden_size);
    for (const auto& sample : calibration_.samples) {
      Stream& s = streams_.emplace_back();
      s.batch.add(0, 0, sample);
      session_.check(s.batch);
      s.h.resize(sample.size() * hidden);
      session_.embed(s.batch, s.h.data());
    }
    const int windows = (options_.kl_tokens + kWindow - 1) / kWindow;
    for (int w = 0; w < windows && w < static_cast<int>(calibration_.samples.size()); ++w) {
      const auto& sample = calibration_.samples[calibration_.samples.size() - 1 - static_cast<size_t>(w)];
      Stream& s = windows_.emplace_back();
      s.batch.add(0, 0, std::span(sample).first(std::min<size_t>(sample.size(), kWindow)));
      s.h.resize(s.batch.tokens.size() * hidden);
      session_.embed(s.batch, s.h.data());
    }
    if (windows_.empty()) return;
    std::vector<Stream> all = windows_;
    for (Stream& s : all) {
      for (size_t layer = 0; layer < model_->blocks.size(); ++layer)
        session_.block(model_->blocks[layer], static_cast<int>(layer), s.batch, s.h.data());
      each_logits(s, [&](std::span<const float> rows) {
        base_logits_.insert(base_logits_.end(), rows.begin(), rows.end());
      });
    }
  }

  struct Stream {
    Batch batch;
    std::vector<float> h;  // [tokens, hidden]
  };

  // body(logits of some positions): of the second half of the stream, whose blocks are all done.
  template <typename Body>
  void each_logits(const Stream& s, const Body& body) {
    const ModelConfig& c = model_->config;
    const int64_t hidden = c.hidden_size, tokens = static_cast<int64_t>(s.batch.tokens.size());
    std::vector<float> x(s.h.size());
    session_.norm(model_->final_norm, s.h.data(), x.data(), tokens);
    const int64_t at_once = session_.logit_rows_at_once();
    std::vector<float> logits(static_cast<size_t>(at_once * c.vocab_size));
    for (int64_t first = tokens / 2; first < tokens; first += at_once) {
      const int64_t count = std::min(at_once, tokens - first);
      session_.logits(x.data() + first * hidden, count, logits.data());
      body(std::span<const float>(logits).first(static_cast<size_t>(count * c.vocab_size)));
    }
  }

  // Mean KL of the model whose block `layer` is `changed`.
  double kl(const Block& changed, int layer) {
    const size_t vocab = static_cast<size_t>(model_->config.vocab_size);
    double total = 0;
    size_t at = 0;
    for (const Stream& window : windows_) {
      Stream s = window;
      session_.block(changed, layer, s.batch, s.h.data());
      for (size_t next = static_cast<size_t>(layer) + 1; next < model_->blocks.size(); ++next)
        session_.block(model_->blocks[next], static_cast<int>(next), s.batch, s.h.data());
      each_logits(s, [&](std::span<const float> rows) {
        const size_t count = rows.size() / vocab;
        std::vector<double> of_row(count);
        pool_.parallel_for(count, 1, [&](size_t begin, size_t end, int) {
          for (size_t r = begin; r < end; ++r)
            of_row[r] =
                divergence_({base_logits_.data() + (at + r) * vocab, vocab}, rows.subspan(r * vocab, vocab));
        });
        for (const double v : of_row) total += v;
        at += count;
      });
    }
    return at > 0 ? total / static_cast<double>(at) : 0;
  }

  void analyze(int layer, Analysis& out) {
    const Block& block = model_->blocks[static_cast<size_t>(layer)];
    const std::array<InputStatistics, 4> inputs = inputs_of(block, layer);
    std::vector<std::vector<float>> weights(kProbed.size());
    for (size_t i = 0; i < kProbed.size(); ++i) {
      const Linear& linear = block.*kProbed[i].linear;
      if (!linear.present()) continue;
      if (linear.packed) fail("{}: already quantized; analyze the original model", linear.name);
      weights[i] = dense_values(linear.dense);
      clean_weights(weights[i]);
      out.linears.push_back(analyze(linear, weights[i], layer, block, kProbed[i].linear,
                                    inputs[static_cast<size_t>(kProbed[i].stage)]));
    }
    LayerAnalysis& whole = out.layers.emplace_back();
    whole.layer = layer;
    if (!windows_.empty() && options_.kl_by_group) {
      for (const int group : options_.group_sizes) {
        LayerPlan plan = options_.probe;
        plan.group_size = group;
        Block changed = block;
        std::vector<std::unique_ptr<Rounded>> rounded;
        for (size_t i = 0; i < kProbed.size(); ++i) {
          const Linear& linear = block.*kProbed[i].linear;
          if (!linear.present()) continue;
          rounded.push_back(std::make_unique<Rounded>(linear, weights[i], plan, pool_));
          changed.*kProbed[i].linear = rounded.back()->linear();
        }
        whole.kl.push_back(kl(changed, layer));
      }
    }
    for (Stream& s : windows_) session_.block(block, layer, s.batch, s.h.data());
  }

  LinearAnalysis analyze(const Linear& linear, const std::vector<float>& weight, int layer,
                         const Block& block, Linear Block::*member, const InputStatistics& input) {
    LinearAnalysis out;
    out.name = linear.name;
    out.layer = layer;
    out.n = linear.n;
    out.k = linear.k;
    const auto error = [&](const std::vector<float>& values) {
      return relative_output_error(weight, values, linear.n, input, pool_);
    };
    for (const int bits : options_.bits) {
      for (const int group : options_.group_sizes) {
        const LayerPlan plan{"rtn", bits, group, options_.symmetric, options_.scale_bits};
        out.errors.push_back(error(Rounded(linear, weight, plan, pool_).values()));
        if (!options_.gptq) continue;
        const MethodOptions by_gptq{.format = plan.format(linear.n, linear.k), .refine = false};
        out.gptq_errors.push_back(
            bits < 8 ? error(dequantize(quantize_gptq(weight, input, by_gptq, pool_).matrix, pool_))
                     : out.errors.back());
      }
    }
    const Rounded probed(linear, weight, options_.probe, pool_);
    out.probe_error = error(probed.values());
    if (!windows_.empty()) {
      Block changed = block;
      changed.*member = probed.linear();
      out.kl = kl(changed, layer);
    }
    return out;
  }

  // The inputs of q, k and v; of o; of gate and up; of down. The streams go through the block.
  std::array<InputStatistics, 4> inputs_of(const Block& block, int layer) {
    const ModelConfig& c = model_->config;
    const int64_t hidden = c.hidden_size;
    const size_t seen = streams_.size() < 4 ? streams_.size() : streams_.size() - streams_.size() / 4;
    int64_t held_out = 0;
    for (size_t i = seen; i < streams_.size(); ++i)
      held_out += static_cast<int64_t>(streams_[i].batch.tokens.size());
    const auto collector = [&](int64_t width) {
      return StatisticsCollector(width, calibration_.tokens - held_out, pool_, options_.gptq, held_out);
    };
    std::array<StatisticsCollector, 4> collectors = {collector(hidden), collector(c.query_size()),
                                                     collector(hidden), collector(c.intermediate_size)};
    std::vector<float> x, a, inner, projected;
    for (Stream& s : streams_) {
      const int64_t rows = static_cast<int64_t>(s.batch.tokens.size());
      const auto collect = [&](int stage, const float* input) {
        StatisticsCollector& to = collectors[static_cast<size_t>(stage)];
        if (static_cast<size_t>(&s - streams_.data()) < seen) {
          to.add(input, rows);
        } else {
          to.hold_out(Observed{input}, rows);
        }
      };
      x.resize(static_cast<size_t>(rows * hidden));
      a.resize(static_cast<size_t>(rows * c.query_size()));
      inner.resize(static_cast<size_t>(rows * c.intermediate_size));
      projected.resize(x.size());
      session_.norm(block.attn_norm, s.h.data(), x.data(), rows);
      collect(0, x.data());
      session_.attention(block, layer, s.batch, x.data(), a.data());
      collect(1, a.data());
      session_.linear(block.o, a.data(), projected.data(), rows);
      session_.add(s.h.data(), projected.data(), rows * hidden);
      if (!c.parallel_block) session_.norm(block.mlp_norm, s.h.data(), x.data(), rows);
      collect(2, x.data());
      session_.mlp_inner(block, x.data(), inner.data(), rows);
      collect(3, inner.data());
      session_.linear(block.down, inner.data(), projected.data(), rows);
      session_.add(s.h.data(), projected.data(), rows * hidden);
    }
    return {collectors[0].finish(), collectors[1].finish(), collectors[2].finish(), collectors[3].finish()};
  }

  std::shared_ptr<const Model> model_;
  const Calibration& calibration_;
  const AnalysisOptions& options_;
  const DivergenceFn& divergence_;
  ThreadPool& pool_;
  Session session_;
  std::vector<Stream> streams_, windows_;
  std::vector<float> base_logits_;  // of the scored positions [positions, vocab]
};

}  // namespace

void AnalysisOptions::validate() const {
  Plan plan;
  plan.base = probe;
  plan.base.symmetric = symmetric;
  plan.base.scale_bits = scale_bits;
  plan.validate();
  for (const int b : bits) {
    plan.base.bits = b;
    plan.validate();
  }
  for (const int g : group_sizes) {
    plan.base.group_size = g;
    plan.validate();
  }
  if (bits.empty() || group_sizes.empty()) throw UsageError("an analysis needs bits and group sizes");
  if (kl_tokens < 0) throw UsageError("the tokens of the KL cannot be negative");
}

double Analysis::error(const LinearAnalysis& linear, int bits, int group_size, bool by_gptq) const {
  const std::vector<double>& errors =
      by_gptq && !linear.gptq_errors.empty() ? linear.gptq_errors : linear.errors;
  const auto b = std::find(options.bits.begin(), options.bits.end(), bits);
  const auto g = std::find(options.group_sizes.begin(), options.group_sizes.end(), group_size);
  NIBBLE_CHECK(b != options.bits.end() && g != options.group_sizes.end());
  return errors[static_cast<size_t>(b - options.bits.begin()) * options.group_sizes.size() +
                static_cast<size_t>(g - options.group_sizes.begin())];
}

int Analysis::shown_bits() const {
  const bool measured = std::count(options.bits.begin(), options.bits.end(), options.probe.bits) > 0;
  return measured ? options.probe.bits : options.bits.front();
}

double Analysis::growth(const LinearAnalysis& linear) const {
  const auto [low, high] = std::minmax_element(options.group_sizes.begin(), options.group_sizes.end());
  const int bits = shown_bits();
  const double small = error(linear, bits, *low);
  return small > 0 ? error(linear, bits, *high) / small : 0;
}

double Analysis::growth(const LayerAnalysis& layer) const {
  if (layer.kl.empty()) return 0;
  const auto [low, high] = std::minmax_element(options.group_sizes.begin(), options.group_sizes.end());
  const double small = layer.kl[static_cast<size_t>(low - options.group_sizes.begin())];
  return small > 0 ? layer.kl[static_cast<size_t>(high - options.group_sizes.begin())] / small : 0;
}

Analysis analyze_model(std::shared_ptr<const Model> model, const Calibration& calibration,
                       const AnalysisOptions& options, const DivergenceFn& divergence, ThreadPool& pool,
                       const AnalysisProgress& progress) {
  options.validate();
  return Analyzer(std::move(model), calibration, options, divergence, pool).run(progress);
}

}  // namespace nibble
