#include "train/finetune.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/sha256.h"
#include "train/adam.h"
#include "train/gradient_pass.h"
#include "train/training_loop.h"

namespace nibble {
namespace {

// Of activations and weights in float32: what is more is computed again on the way back.
constexpr uint64_t kKeptBytes = uint64_t{2} << 30;
constexpr int kBatchTokens = 1024;  // of a pass; a step may take several
constexpr int kChecks = 5;          // of the held-out loss on the way

int64_t answer_tokens(const TrainingRow& row) { return static_cast<int64_t>(row.tokens.size()) - row.prompt; }

// Rows taken together, in passes of limited size: the loss is the mean over all their answer tokens.
class Rows {
 public:
  Rows(GradientPass& pass, CrossEntropy& loss, int batch_tokens)
      : pass_(pass), loss_(loss), batch_tokens_(batch_tokens) {}

  double run(const std::vector<const TrainingRow*>& rows, bool gradients) {
    int64_t total = 0;
    for (const TrainingRow* row : rows) total += answer_tokens(*row);
    double sum = 0;
    Since since = Since::kChanged;
    for (size_t i = 0; i < rows.size();) {
      batch_.clear();
      std::vector<int32_t> answers;
      while (i < rows.size() &&
             static_cast<int>(batch_.tokens.size() + rows[i]->tokens.size()) <= batch_tokens_) {
        const auto& tokens = rows[i]->tokens;
        batch_.add(0, 0, tokens);
        for (size_t t = 0; t < tokens.size(); ++t) {
          const bool counts = static_cast<int>(t) + 1 >= rows[i]->prompt && t + 1 < tokens.size();
          answers.push_back(counts ? tokens[t + 1] : -1);
        }
        ++i;
      }
      loss_.set(std::move(answers), total);
      sum += gradients ? pass_.gradients(batch_, loss_, since) : pass_.loss(batch_, loss_, since);
      since = Since::kUnchanged;
    }
    return sum;
  }

 private:
  GradientPass& pass_;
  CrossEntropy& loss_;
  int batch_tokens_;
  Batch batch_;
};

double schedule(int step, int total, double warmup) {  // step from 1
  const double rising = warmup * total;
  if (step < rising) return step / rising;
  const double done = (step - rising) / std::max(1.0, total - rising);
  return 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done)));
}

// Shortens the gradients, taken as one vector, to `longest`.
void clip_gradients(const std::vector<Parameter*>& parameters, double longest) {
  double squares = 0;
  for (const Parameter* p : parameters) {
    for (const float g : p->gradient) squares += double{g} * double{g};
  }
  const double length = std::sqrt(squares);
  if (longest <= 0 || length <= longest) return;
  const float factor = static_cast<float>(longest / length);
  for (Parameter* p : parameters) {
    for (float& g : p->gradient) g *= factor;
  }
}

// Which rows are held out, and which each step takes: follows from the seed.
class RowOrder {
 public:
  RowOrder(const TrainingText& text, const FineTuneOptions& o) : random_(o.seed) {
    for (const TrainingRow& row : text.rows) order_.push_back(&row);
    random_.shuffle(order_);
    const int held_out = std::max(1, std::min(o.held_out, static_cast<int>(order_.size()) / 10));
    held_out_.assign(order_.end() - held_out, order_.end());
    order_.resize(order_.size() - held_out_.size());
    batch_ = std::min(static_cast<size_t>(o.batch), order_.size());
  }
  const std::vector<const TrainingRow*>& held_out() const { return held_out_; }
  int rows() const { return static_cast<int>(order_.size()); }
  std::vector<const TrainingRow*> next() {
    std::vector<const TrainingRow*> batch;
    while (batch.size() < batch_) {
      if (at_ == order_.size()) {
        random_.shuffle(order_);
        at_ = 0;
      }
      batch.push_back(order_[at_++]);
    }
    return batch;
  }

 private:
  Random random_;
  std::vector<const TrainingRow*> order_, held_out_;
  size_t at_ = 0, batch_ = 1;
};

int longest_row(const TrainingText& text) {
  size_t longest = 0;
  for (const TrainingRow& row : text.rows) longest = std::max(longest, row.tokens.size());
  return static_cast<int>(longest);
}

std::string text_sha256(const TrainingText& text) {
  Sha256 hash;
  for (const TrainingRow& row : text.rows) {
    hash.update(fmt::format("{} {};", row.tokens.size(), row.prompt));
    hash.update(std::as_bytes(std::span(row.tokens)));
  }
  return hash.hex();
}

// Everything that the weights and the report depend on.
OrderedJson finetune_settings(const TrainedModel& trained, const TrainingText& text, const FineTuneOptions& o,
                              int threads) {
  return {{"model", checkpoint_outline_sha256(trained.model().checkpoint())},
          {"--data", text_sha256(text)},
          {"--method", o.full ? "full" : "lora"},
          {"--rank", o.rank},
          {"--alpha", o.alpha},
          {"--lr", o.learning_rate()},
          {"--epochs", o.epochs},
          {"--max-steps", o.max_steps},
          {"--batch", o.batch},
          {"--context", o.context},
          {"--warmup", o.warmup},
          {"--clip", o.clip},
          {"--weight-decay", o.decay},
          {"--strip-marks", o.strip_marks},
          {"--seed", o.seed},
          {"--dtype", o.bf16 ? "bfloat16" : "float32"},
          {"--score-rows", o.score_rows},
          {"held out", o.held_out},
          {"--threads", threads}};
}

class FineTuning : private TrainingLoop {
 public:
  FineTuning(TrainedModel& trained, const TrainingText& text, const FineTuneOptions& o, ThreadPool& pool,
             const FineTuneCalls& calls)
      : TrainingLoop({calls.keep, "finetune", finetune_settings(trained, text, o, pool.size())}, kChecks),
        options_(o),
        pool_(pool),
        calls_(calls),
        batch_tokens_(std::max(longest_row(text), kBatchTokens)),
        pass_(trained, pass_options(trained, o, batch_tokens_, longest_row(text)), pool),
        loss_(trained.config().vocab_size, pool),
        rows_(pass_, loss_, batch_tokens_),
        order_(text, o),
        parameters_(trained.parameters()),
        adam_(rules(parameters_, o), {}) {
    report_.rows = order_.rows();
    report_.held_out = static_cast<int>(order_.held_out().size());
    report_.too_long = text.too_long;
    report_.bf16 = pass_.bf16();
    const double wanted = std::ceil(o.epochs * report_.rows / o.batch);
    total_ = static_cast<int>(o.max_steps > 0 ? std::min<double>(o.max_steps, wanted) : wanted);
  }

  FineTuneReport report() {
    run(total_);
    report_.steps = steps();
    report_.seconds = seconds();
    report_.peak_rss = peak_rss();
    return report_;
  }

 private:
  static GradientOptions pass_options(TrainedModel& trained, const FineTuneOptions& o, int batch_tokens,
                                      int context) {
    const uint64_t activations = BlockActivations(trained.config(), 1).bytes() *
                                 static_cast<uint64_t>(batch_tokens) * trained.blocks.size();
    const bool recompute = activations > kKeptBytes;
    const bool keep_weights =
        GradientPass::weight_bytes(trained) + (recompute ? 0 : activations) <= kKeptBytes;
    const bool bf16 = o.bf16 && !o.full && keep_weights && kernels().bf16_pays;
    return {.batch_tokens = batch_tokens,
            .context = context,
            .recompute = recompute,
            .keep_weights = keep_weights,
            .bf16 = bf16 ? &kernels() : nullptr};
  }
  static std::vector<AdamRule> rules(const std::vector<Parameter*>& parameters, const FineTuneOptions& o) {
    std::vector<AdamRule> rules;
    for (Parameter* p : parameters) {
      const bool vector = p->name.ends_with("bias") || p->name.find("norm") != std::string::npos;
      rules.push_back({p, o.learning_rate(), false, vector ? 0 : o.decay});
    }
    return rules;
  }

  std::vector<const TrainingRow*> next_rows() {
    std::vector<const TrainingRow*> batch = order_.next();
    for (const TrainingRow* row : batch) {
      report_.tokens += static_cast<int64_t>(row->tokens.size());
      report_.answer_tokens += answer_tokens(*row);
    }
    return batch;
  }
  std::optional<double> train(int step) override {
    const Stopwatch watch;
    const double value = rows_.run(next_rows(), true);
    if (!std::isfinite(value)) fail("step {}: the loss is {}; a lower --lr may help", step, value);
    clip_gradients(parameters_, options_.clip);
    adam_.step(schedule(step, total_, options_.warmup), pool_);
    report_.training_seconds += watch.seconds();
    return value;
  }
  double check(int step) override {
    const auto& held_out = order_.held_out();
    FineTuneReport::Check check{step, rows_.run(held_out, false), std::nullopt};
    if (calls_.score && options_.score_rows > 0)
      check.exact_match = calls_.score(
          std::span(held_out).first(std::min(static_cast<size_t>(options_.score_rows), held_out.size())));
    if (calls_.checked) calls_.checked(check);
    report_.checks.push_back(check);
    return check.loss;
  }
  void progress(int step, double loss) override {
    if (calls_.progress) calls_.progress(step, total_, loss);
  }

  StateArrays arrays() override { return adam_.state(); }
  OrderedJson facts() const override {
    return {{"checks", to_json(report_.checks)}, {"training_seconds", report_.training_seconds}};
  }
  void resume(int steps, const Json& facts) override {
    const std::string where = "what a stopped fine-tuning left";
    for (int step = 1; step <= steps; ++step) next_rows();  // the order goes on where it was
    adam_.resume_after(steps);
    report_.training_seconds = json_get<double>(facts, "training_seconds", where);
    for (const Json& check : json_get<Json>(facts, "checks", where)) {
      FineTuneReport::Check done{json_get<int>(check, "step", where),
                                 json_get_or<double>(check, "loss", std::nan(""), where), std::nullopt};
      if (check.contains("exact_match")) done.exact_match = json_get<double>(check, "exact_match", where);
      report_.checks.push_back(done);
    }
  }

  const FineTuneOptions& options_;
  ThreadPool& pool_;
  const FineTuneCalls& calls_;
  const int batch_tokens_;
  GradientPass pass_;
  CrossEntropy loss_;
  Rows rows_;
  RowOrder order_;
  const std::vector<Parameter*> parameters_;
  Adam adam_;
  FineTuneReport report_;
  int total_ = 0;
};

}  // namespace

FineTuneReport fine_tune(TrainedModel& trained, const TrainingText& text, const FineTuneOptions& o,
                         ThreadPool& pool, const FineTuneCalls& calls) {
  return FineTuning(trained, text, o, pool, calls).report();
}

}  // namespace nibble
