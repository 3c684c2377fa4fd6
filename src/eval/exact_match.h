// Answers to GSM8K's questions, generated: how they are asked for, and how many are right.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/language_model.h"

namespace nibble {

inline constexpr int kGsm8kMaxNewTokens = 256;
// Where an answer ends that the model does not end itself.
const std::vector<std::string>& gsm8k_stop_strings();

struct AskedProblem {
  std::vector<int32_t> prompt;  // shorter than the model's context
  std::string number;           // the right one, normalized
};

// Share of the problems whose generated answer says the right number, read as the task reads it
// (exact_match_flexible). There is one problem at least.
double exact_match(LanguageModel& model, std::span<const AskedProblem> problems, const ProgressFn& progress);

}  // namespace nibble
