#include "train/finetune.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/memory_usage.h"
#include "base/stopwatch.h"
#include "quant/calibration.h"
#include "text/prompt_forms.h"
#include "train/adam.h"
#include "train/gradient_pass.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kBatchTokens = 1024;  // of a pass; a step may take several
constexpr int kChecks = 5;          // of the held-out loss on the way

std::string without_marks(std::string text) {
  for (size_t begin; (begin = text.find("<<")) != std::string::npos;) {
    const size_t end = text.find(">>", begin);
    if (end == std::string::npos) break;
    text.erase(begin, end + 2 - begin);
  }
  return text;
}

// Prompt and completion of a row.
std::pair<std::string, std::string> parts_of(const Json& row, bool strip_marks, const std::string& where) {
  if (row.contains("prompt"))
    return {json_get<std::string>(row, "prompt", where), json_get<std::string>(row, "completion", where)};
  const std::string answer = json_get<std::string>(row, "answer", where);
  return {gsm8k_prompt(json_get<std::string>(row, "question", where)),
          " " + (strip_marks ? without_marks(answer) : answer)};
}

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
      sum += gradients ? pass_.gradients(batch_, loss_) : pass_.loss(batch_, loss_);
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

}  // namespace

void FineTuneOptions::validate() const {
  const auto expect = [](bool good, const char* what) {
    if (!good) throw UsageError(what);
  };
  expect(rank >= 1 && rank <= 4096, "--rank: expected 1 to 4096");
  expect(alpha > 0, "--alpha: expected a positive number");
  expect(rate >= 0 && rate < 1, "--lr: expected less than 1; 0 for the method's own");
  expect(epochs > 0, "--epochs: expected a positive number");
  expect(max_steps >= 0, "--max-steps: expected 0 or more");
  expect(batch >= 1, "--batch: expected 1 or more");
  expect(context >= 2, "--context: expected 2 or more");
  expect(warmup >= 0 && warmup < 1, "--warmup: expected 0 to 1");
  expect(clip >= 0, "--clip: expected 0 or more");
  expect(decay >= 0, "--weight-decay: expected 0 or more");
}

TrainingText load_training_text(const fs::path& file, const Model& model, const Tokenizer& tokenizer,
                                const FineTuneOptions& o) {
  refuse_test_split(file);
  const int context = std::min(o.context, model.config.max_context);
  TrainingText text;
  const std::vector<Json> rows = read_json_lines(file);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto [prompt, completion] =
        parts_of(rows[i], o.strip_marks, fmt::format("{} row {}", file.string(), i + 1));
    TrainingRow row;
    row.prompt = static_cast<int>(tokenizer.encode(prompt, true).size());
    row.tokens = tokenizer.encode(prompt + completion, true);
    if (!model.config.end_tokens.empty()) row.tokens.push_back(model.config.end_tokens.front());
    if (static_cast<int>(row.tokens.size()) > context) {
      ++text.too_long;
    } else if (row.prompt > 0 && row.prompt < static_cast<int>(row.tokens.size())) {
      text.rows.push_back(std::move(row));
    }
  }
  if (text.rows.size() < 2)
    fail("{}: {} rows fit {} tokens, two are needed at least", file.string(), text.rows.size(), context);
  return text;
}

OrderedJson to_json(const FineTuneReport& r, const FineTuneOptions& o) {
  OrderedJson checks = OrderedJson::array();
  for (const auto& check : r.checks) checks.push_back({{"step", check.step}, {"loss", check.loss}});
  OrderedJson json = {{"method", o.full ? "full" : "lora"}};
  if (!o.full) json.update({{"rank", o.rank}, {"alpha", o.alpha}});
  json.update({{"learning_rate", o.learning_rate()},
               {"epochs", o.epochs},
               {"batch", o.batch},
               {"seed", o.seed},
               {"steps", r.steps},
               {"tokens", r.tokens},
               {"answer_tokens", r.answer_tokens},
               {"rows", r.rows},
               {"held_out", r.held_out},
               {"too_long", r.too_long},
               {"checks", checks},
               {"seconds", r.seconds},
               {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
               {"peak_rss", r.peak_rss}});
  return json;
}

TrainedParts trained_parts(const FineTuneOptions& o) {
  return {.everything = o.full,
          .adapter_rank = o.full ? 0 : o.rank,
          .adapter_scale = static_cast<float>(o.alpha / o.rank),
          .seed = o.seed};
}

FineTuneReport fine_tune(TrainedModel& trained, const TrainingText& text, const FineTuneOptions& o,
                         ThreadPool& pool, const FineTuneProgress& progress) {
  const Stopwatch watch;
  size_t longest = 0;
  for (const TrainingRow& row : text.rows) longest = std::max(longest, row.tokens.size());
  const int context = static_cast<int>(longest), batch_tokens = std::max(context, kBatchTokens);
  GradientPass pass(trained, {.batch_tokens = batch_tokens, .context = context}, pool);
  CrossEntropy loss(trained.config().vocab_size, pool);
  Rows rows(pass, loss, batch_tokens);
  const std::vector<Parameter*> parameters = trained.parameters();
  std::vector<AdamRule> rules;
  for (Parameter* p : parameters) {
    const bool vector = p->name.ends_with("bias") || p->name.find("norm") != std::string::npos;
    rules.push_back({p, o.learning_rate(), false, vector ? 0 : o.decay});
  }
  Adam adam(std::move(rules), {});

  Random random(o.seed);
  std::vector<const TrainingRow*> order;
  for (const TrainingRow& row : text.rows) order.push_back(&row);
  random.shuffle(order);
  FineTuneReport report;
  report.held_out = std::max(1, std::min(o.held_out, static_cast<int>(order.size()) / 10));
  const std::vector<const TrainingRow*> held_out(order.end() - report.held_out, order.end());
  order.resize(order.size() - held_out.size());
  report.rows = static_cast<int>(order.size());
  report.too_long = text.too_long;
  const double wanted = std::ceil(o.epochs * report.rows / o.batch);
  const int total = static_cast<int>(o.max_steps > 0 ? std::min<double>(o.max_steps, wanted) : wanted);
  report.checks.push_back({0, rows.run(held_out, false)});
  double smoothed = report.checks.front().loss;
  size_t at = 0;
  for (int step = 1; step <= total; ++step) {
    std::vector<const TrainingRow*> batch;
    while (static_cast<int>(batch.size()) < std::min(o.batch, report.rows)) {
      if (at == order.size()) {
        random.shuffle(order);
        at = 0;
      }
      batch.push_back(order[at++]);
      report.tokens += static_cast<int64_t>(batch.back()->tokens.size());
      report.answer_tokens += answer_tokens(*batch.back());
    }
    const double value = rows.run(batch, true);
    if (!std::isfinite(value)) fail("step {}: the loss is {}; a lower --lr may help", step, value);
    clip_gradients(parameters, o.clip);
    adam.step(schedule(step, total, o.warmup), pool);
    smoothed = kProgressSmoothing * smoothed + (1 - kProgressSmoothing) * value;
    report.steps = step;
    if (progress) progress(step, total, smoothed);
    if (int64_t{step} * kChecks / total > int64_t{step - 1} * kChecks / total)
      report.checks.push_back({step, rows.run(held_out, false)});
  }
  report.seconds = watch.seconds();
  report.peak_rss = peak_rss_bytes();
  return report;
}

}  // namespace nibble
