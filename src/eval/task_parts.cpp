#include "eval/task_parts.h"

#include <algorithm>
#include <map>

#include "eval/statistics.h"

namespace nibble {

std::vector<double> scores_of(std::span<const Sample> samples) {
  std::vector<double> scores;
  for (const Sample& sample : samples) scores.push_back(sample.score);
  return scores;
}

std::vector<std::string> clusters_of(std::span<const Sample> samples) {
  std::vector<std::string> clusters;
  for (const Sample& sample : samples) clusters.push_back(sample.cluster);
  return clusters;
}

double top_answer_share(std::span<const Sample> samples) {
  std::map<std::string_view, size_t> counts;
  size_t top = 0;
  for (const Sample& sample : samples) top = std::max(top, ++counts[sample.prediction]);
  return samples.empty() ? 0 : static_cast<double>(top) / static_cast<double>(samples.size());
}

void add_gold_ppl(TaskResult& result) {
  std::vector<double> nll, tokens;
  for (const Sample& sample : result.samples) {
    nll.push_back(number_from_json(sample.detail, "gold_nll", sample.key));
    tokens.push_back(number_from_json(sample.detail, "gold_tokens", sample.key));
  }
  result.metrics["gold_ppl"] = perplexity_metric(nll, tokens, clusters_of(result.samples));
}

std::string join_shots(const std::vector<std::string>& examples, std::string_view question) {
  std::string prompt;
  for (const std::string& example : examples) {
    prompt += example;
    prompt += "\n\n";
  }
  prompt += question;
  return prompt;
}

}  // namespace nibble
