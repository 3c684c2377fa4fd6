// Two sets of scores of the same rows: McNemar's and the sign-flip test, the bootstrap, perplexities, Holm.
// Golden values: scripts/golden_statistics.py (SciPy, statsmodels) → tests/golden/statistics.json.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/statistics.h"

namespace nibble {

// McNemar's exact two-sided test on the discordant pairs: 2·P(X ≤ min) for X ~ Binomial(b + c, ½),
// at most 1; 1 when there are none.
double mcnemar_exact(int64_t right_to_wrong, int64_t wrong_to_right);

// The same where rows come in clusters: the exact two-sided sign-flip test on each cluster's wins minus
// losses, P(|Σ ±d_g| ≥ |Σ d_g|) over all 2ᴳ signs, since under the null a cluster may as well have come out
// the other way round (Obuchowski 1998 takes the χ² limit of this). Single rows give mcnemar_exact.
double sign_flip_exact(std::span<const int64_t> cluster_differences);

// 95 % percentile interval of the mean of paired differences, by resampling whole clusters with
// replacement (single rows with empty `clusters`). The same on every platform for one seed.
inline constexpr int kBootstrapResamples = 10000;
Interval bootstrap_mean(std::span<const double> differences, std::span<const std::string> clusters,
                        uint64_t seed, int resamples = kBootstrapResamples);

// Baseline against quantized on the same rows.
struct PairedComparison {
  int64_t n = 0;  // pairs
  int64_t clusters = 0;
  double base = kUnknown, quant = kUnknown;      // mean scores
  double diff = kUnknown;                        // quant − base
  double stderr_ = kUnknown;                     // clustered
  double ci_low = kUnknown, ci_high = kUnknown;  // bootstrap, 95 %
  double p_value = kUnknown;  // 0/1 scores: McNemar, by clusters the sign-flip test; others: t_test()
  int64_t right_to_wrong = 0, wrong_to_right = 0;  // 0/1 scores
  // The true difference that a two-sided 5 % test on this many rows finds with 80 % power:
  // (1.96 + 0.84)·error, the error being at least that of one discordant pair for 0/1 scores.
  double smallest_detectable = kUnknown;

  bool measurable() const { return ci_low > 0 || ci_high < 0; }  // the interval excludes 0
};
// Scores of equal length, pair by pair; `clusters` as above.
PairedComparison compare_paired(std::span<const double> base, std::span<const double> quant,
                                std::span<const std::string> clusters, uint64_t seed);
// Pairs the samples by key; throws Error when the keys are not the same on both sides.
PairedComparison compare_samples(std::span<const Sample> base, std::span<const Sample> quant, uint64_t seed);

// ln(ppl_quant / ppl_base) over the same windows: paired, so what both find hard cancels.
struct LogPplRatio {
  int64_t windows = 0;
  double tokens = 0;
  double ppl_base = kUnknown, ppl_quant = kUnknown;
  double value = kUnknown, stderr_ = kUnknown;
  double ci_low = kUnknown, ci_high = kUnknown;  // t interval over the windows (or clusters)
  double p_value = kUnknown;                     // t_test() of the same

  bool measurable() const { return ci_low > 0 || ci_high < 0; }
};
// nll_*: −ln p summed per window; tokens: predicted per window.
LogPplRatio log_ppl_ratio(std::span<const double> nll_base, std::span<const double> nll_quant,
                          std::span<const double> tokens, std::span<const std::string> clusters = {});
// The same from perplexity samples (score = NLL), paired by key; throws Error as above.
LogPplRatio log_ppl_ratio(std::span<const Sample> base, std::span<const Sample> quant);

// Holm's step-down correction: adjusted p-values in the order given.
std::vector<double> holm(std::span<const double> p_values);

}  // namespace nibble
