// Scoring rows by the log-likelihood of two choices, as BoolQ and MS MARCO do.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/language_model.h"
#include "eval/result.h"

namespace nibble {

struct ChoiceScore {
  std::array<double, 2> loglik = {};
  std::array<int, 2> tokens = {};  // of each choice
  double latency_ms = 0;           // both choices
  bool truncated = false;          // the prompt lost its head

  // The choice of the higher summed log-likelihood, the first of equals; −1 without finite numbers.
  int answer() const;
};

struct ChoiceScores {
  std::vector<ChoiceScore> rows;  // in the order of the contexts
  double seconds = 0;             // wall time of scoring, after a warm-up
  int64_t prompt_tokens = 0;      // each prompt counted once
  int64_t truncated = 0;          // prompts that lost their head
};

ChoiceScores score_choices(LanguageModel& model, std::span<const std::string> contexts,
                           const std::array<std::string_view, 2>& choices, const ProgressFn& progress);

// What both tasks report alike: latency, throughput, truncated_prompts, not_finite.
void add_choice_costs(const ChoiceScores& scores, TaskResult& result);

}  // namespace nibble
