// What a fine-tuning is asked for and what it says.
#include "train/finetune.h"

namespace nibble {

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
  expect(score_rows >= 0, "--score-rows: expected 0 or more");
}

OrderedJson to_json(const std::vector<FineTuneReport::Check>& checks) {
  OrderedJson json = OrderedJson::array();
  for (const auto& check : checks) {
    json.push_back({{"step", check.step}, {"loss", check.loss}});
    if (check.exact_match) json.back()["exact_match"] = *check.exact_match;
  }
  return json;
}

OrderedJson to_json(const FineTuneReport& r, const FineTuneOptions& o) {
  OrderedJson json = {{"method", o.full ? "full" : "lora"}};
  if (!o.full) json.update({{"rank", o.rank}, {"alpha", o.alpha}});
  json.update({{"learning_rate", o.learning_rate()},
               {"epochs", o.epochs},
               {"batch", o.batch},
               {"seed", o.seed},
               {"products", r.bf16 ? "bfloat16" : "float32"},
               {"steps", r.steps},
               {"tokens", r.tokens},
               {"answer_tokens", r.answer_tokens},
               {"rows", r.rows},
               {"held_out", r.held_out},
               {"too_long", r.too_long},
               {"checks", to_json(r.checks)},
               {"seconds", r.seconds},
               {"training_seconds", r.training_seconds},
               {"tokens_per_second", static_cast<double>(r.tokens) / r.training_seconds},
               {"peak_rss", r.peak_rss}});
  return json;
}

TrainedParts trained_parts(const FineTuneOptions& o) {
  return {.everything = o.full,
          .adapter_rank = o.full ? 0 : o.rank,
          .adapter_scale = static_cast<float>(o.alpha / o.rank),
          .seed = o.seed};
}

}  // namespace nibble
