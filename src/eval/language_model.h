// What a task needs of a model. The engine implements it; tests use a fake.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace nibble {

// log p(continuation | context), natural logarithm, summed over the continuation's tokens.
struct LoglikRequest {
  std::vector<int32_t> context;       // not empty
  std::vector<int32_t> continuation;  // not empty
};
struct LoglikResult {
  double loglik = 0;
  bool is_greedy = false;  // every token of the continuation was the most likely one
  double latency_ms = 0;   // wall time of the batch that this request was part of, per request
};

struct GenerateRequest {
  std::vector<int32_t> prompt;  // not empty
  int max_new_tokens = 256;
  std::vector<std::string> stop;   // generation ends when the text contains one of these
  std::vector<int32_t> gold = {};  // where not empty: also scored after the prompt, which runs once for both
};
enum class FinishReason { kEndToken, kStopString, kLength };
struct GenerateResult {
  std::vector<int32_t> tokens;  // without the end token
  std::string text;             // cut before the stop string
  FinishReason finish = FinishReason::kLength;
  double first_token_ms = 0;  // from the start of its batch
  double total_ms = 0;
  int reused_tokens = 0;   // of the prompt: in the cache already, from another prompt that begins the same
  double gold_loglik = 0;  // log p(gold | prompt), 0 without gold
  double gold_ms = 0;      // what scoring it took; in no other time of any request
};

// Called with (done, total) as work proceeds; may throw to cancel.
using ProgressFn = std::function<void(size_t done, size_t total)>;

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual int max_context() const = 0;  // tokens of prompt and continuation together
  // Results in the order of the requests; a request longer than max_context() throws Error.
  virtual std::vector<LoglikResult> loglik(std::span<const LoglikRequest> requests,
                                           const ProgressFn& progress) = 0;
  // Greedy decoding.
  virtual std::vector<GenerateResult> generate(std::span<const GenerateRequest> requests,
                                               const ProgressFn& progress) = 0;
  // Per window: the sum of −ln p(token[i] | tokens before it) for i ≥ 1, float64.
  virtual std::vector<double> window_nll(std::span<const std::vector<int32_t>> windows,
                                         const ProgressFn& progress) = 0;
};

}  // namespace nibble
