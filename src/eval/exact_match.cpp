#include "eval/exact_match.h"

#include <algorithm>

#include "base/error.h"
#include "eval/gsm8k_answer.h"

namespace nibble {

const std::vector<std::string>& gsm8k_stop_strings() {
  static const std::vector<std::string> stop = {"Question:", "</s>", "<|im_end|>"};
  return stop;
}

double exact_match(LanguageModel& model, std::span<const AskedProblem> problems, const ProgressFn& progress) {
  NIBBLE_CHECK(!problems.empty());
  std::vector<GenerateRequest> requests;
  for (const AskedProblem& problem : problems) {
    const int left = model.max_context() - static_cast<int>(problem.prompt.size());
    requests.push_back({problem.prompt, std::min(kGsm8kMaxNewTokens, left), gsm8k_stop_strings()});
  }
  const std::vector<GenerateResult> answers = model.generate(requests, progress);
  int right = 0;
  for (size_t i = 0; i < problems.size(); ++i)
    right += generated_number(answers[i].text) == problems[i].number;
  return static_cast<double>(right) / static_cast<double>(problems.size());
}

}  // namespace nibble
