// How far a quantized model lies from its baseline, position by position (`nibble compare`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/statistics.h"

namespace nibble {

// One scored position.
struct PositionDistance {
  double kl = 0;        // KL(base ‖ quant) of the next-token distributions, nats
  double nll_base = 0;  // −ln p of the true token
  double nll_quant = 0;
  double p_base = 0, p_quant = 0;  // p of the true token
  bool same_top1 = false;
};

// From two rows of logits [vocab] of equal length and the token that really came next; float64
// throughout. Tokens of zero probability in the baseline add nothing; a token the baseline deems
// possible and the quantized model impossible makes the KL infinite. May run on several threads.
PositionDistance position_distance(std::span<const float> base, std::span<const float> quant,
                                   int32_t true_token);

struct Comparison {
  int window = 0;                   // tokens of each
  int64_t windows = 0, tokens = 0;  // tokens: positions scored
  double kl_mean = kUnknown;
  double kl_stderr = kUnknown;            // clustered by window; over positions with a single window
  double kl_stderr_positions = kUnknown;  // as if positions were independent
  double kl_p50 = kUnknown, kl_p90 = kUnknown, kl_p95 = kUnknown, kl_p99 = kUnknown, kl_p999 = kUnknown,
         kl_max = kUnknown;
  double top1_agreement = kUnknown, top1_stderr = kUnknown;  // binomial error
  double dp_mean = kUnknown, dp_stderr = kUnknown;  // p_quant − p_base of the true token; error as kl_stderr
  double dp_rms = kUnknown;
  double ppl_base = kUnknown, ppl_quant = kUnknown;
  Estimate kl_minus_first;  // of several models over one text: KL less that of the first, paired by position
  Estimate ln_ppl_ratio;    // paired ln(ppl_quant / ppl_base); error as kl_stderr
  int64_t not_finite = 0;   // positions without a finite KL: a model yields NaN or infinity there
};

// Takes positions one by one and keeps a few numbers of each, never logits.
class ComparisonBuilder {
 public:
  // window: index of the window that the position lies in.
  void add(size_t window, const PositionDistance& position);
  // first: what the same positions gave for the model to hold this one against; null: none.
  Comparison result(const ComparisonBuilder* first = nullptr) const;

 private:
  std::vector<double> kl_, dp_, nll_base_, nll_quant_;
  std::vector<std::string> window_;
  int64_t same_top1_ = 0;
};

// What `compare --json` says of a model.
OrderedJson to_json(const Comparison& comparison);

}  // namespace nibble
