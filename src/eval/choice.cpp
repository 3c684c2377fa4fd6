#include "eval/choice.h"

#include <cmath>

#include "base/stopwatch.h"
#include "eval/encoding.h"
#include "eval/statistics.h"

namespace nibble {

int ChoiceScore::answer() const {
  if (!std::isfinite(loglik[0]) || !std::isfinite(loglik[1])) return -1;
  return loglik[1] > loglik[0] ? 1 : 0;
}

ChoiceScores score_choices(LanguageModel& model, std::span<const std::string> contexts,
                           const std::array<std::string_view, 2>& choices, const ProgressFn& progress) {
  ChoiceScores scores;
  scores.rows.resize(contexts.size());
  std::vector<LoglikRequest> requests;
  requests.reserve(2 * contexts.size());
  for (size_t i = 0; i < contexts.size(); ++i) {
    ChoiceScore& row = scores.rows[i];
    size_t prompt = 0;
    for (size_t c = 0; c < 2; ++c) {
      EncodedPair pair = encode_pair(model.tokenizer(), contexts[i], choices[c], model.max_context());
      row.tokens[c] = static_cast<int>(pair.request.continuation.size());
      row.truncated |= pair.truncated;
      prompt = std::max(prompt, pair.request.context.size());
      requests.push_back(std::move(pair.request));
    }
    scores.prompt_tokens += static_cast<int64_t>(prompt);
    scores.truncated += row.truncated;
  }
  if (requests.empty()) return scores;

  model.loglik(std::span(requests).first(1), {});  // warm-up
  const Stopwatch watch;
  const std::vector<LoglikResult> results = model.loglik(requests, progress);
  scores.seconds = watch.seconds();
  NIBBLE_CHECK(results.size() == requests.size());
  for (size_t i = 0; i < results.size(); ++i) {
    scores.rows[i / 2].loglik[i % 2] = results[i].loglik;
    scores.rows[i / 2].latency_ms += results[i].latency_ms;
  }
  return scores;
}

void add_choice_costs(const ChoiceScores& scores, TaskResult& result) {
  std::vector<double> latency;
  double not_finite = 0;
  for (const ChoiceScore& row : scores.rows) {
    latency.push_back(row.latency_ms);
    not_finite += row.answer() < 0;
  }
  result.latency_ms = percentile_summary(latency);
  if (scores.seconds > 0)
    result.prompt_tokens_per_s = static_cast<double>(scores.prompt_tokens) / scores.seconds;
  result.checks["truncated_prompts"] = static_cast<double>(scores.truncated);
  result.checks["not_finite"] = not_finite;
}

}  // namespace nibble
