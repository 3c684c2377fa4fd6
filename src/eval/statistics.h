// Statistics of scores: intervals, errors that respect clusters, paired comparisons.
// Golden values: scripts/golden_statistics.py (SciPy, statsmodels) → tests/golden/statistics.json.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/result.h"

namespace nibble {

struct Interval {
  double low = kUnknown, high = kUnknown;
};

// A value with its standard error; the error is NaN where fewer than two independent units exist.
struct Estimate {
  double value = kUnknown;
  double stderr_ = kUnknown;
};

// 97.5 % quantile of Student's t with df ≥ 1 degrees of freedom: the half width of a 95 % interval
// in standard errors. Exact up to df = 4, then the Cornish-Fisher expansion of Abramowitz and
// Stegun 26.7.5 (off by less than 2e-3). Infinite for df < 1.
double student_t_975(double df);

inline constexpr double kZ975 = 1.959963984540054;  // the normal quantile of a 95 % interval

// Two-sided p of Student's t: P(|T| ≥ |t|), df ≥ 1 whole; the finite series of Abramowitz and Stegun 26.7.3
// and 26.7.4, so off by about 1e-15 in absolute terms. NaN for a NaN or for df < 1.
double student_t_p(double t, int64_t df);
// Of value/stderr over `units` rows or clusters; 1 where there is no error to judge by.
double t_test(const Estimate& estimate, int64_t units);

// value ± t·stderr with the t of `units` − 1 degrees of freedom; NaN when units < 2.
Interval t_interval(const Estimate& estimate, double units);

// Wilson's score interval at 95 % for `successes` of n > 0 trials (neither need be whole).
Interval wilson_interval(double successes, double n);

// Mean; sample standard deviation / √n.
Estimate mean_with_error(std::span<const double> values);

// Mean, with the cluster-robust error: G/(G−1) · Σ_g (Σ_{i∈g} (x_i − x̄))² / n², square root, for G
// clusters (Liang and Zeger 1986). Equals mean_with_error when every row is its own cluster.
// `clusters` has a key for every value.
Estimate clustered_mean(std::span<const double> values, std::span<const std::string> clusters);
size_t count_clusters(std::span<const std::string> clusters);

// Σ numerator / Σ denominator with the delta-method error, clustered:
// G/(G−1) · Σ_g (Σ_{i∈g} (a_i − r·b_i))² / (Σ b)². With a = NLL sums, b = token counts this is the
// mean NLL per token, ln ppl. An empty `clusters` makes every row its own.
Estimate ratio_of_sums(std::span<const double> numerator, std::span<const double> denominator,
                       std::span<const std::string> clusters = {});

// Linear interpolation between order statistics (NumPy's default); `sorted` ascending, not empty,
// p in [0, 100].
double percentile(std::span<const double> sorted, double p);
Percentiles percentile_summary(std::span<const double> values);  // zeros when empty

// A metric of 0/1 scores: clustered error, Wilson's interval at the effective number of rows
// p(1−p)/error², at most n; when all scores agree, the number of clusters.
Metric proportion_metric(std::span<const double> scores, std::span<const std::string> clusters);
// A metric of any scores: clustered error, t interval over the clusters.
Metric mean_metric(std::span<const double> values, std::span<const std::string> clusters);
// exp(Σ nll / Σ tokens): error by the delta method, interval exp of that of the logarithm.
Metric perplexity_metric(std::span<const double> nll, std::span<const double> tokens,
                         std::span<const std::string> clusters = {});

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
