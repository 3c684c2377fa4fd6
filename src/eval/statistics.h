// Statistics of scores: intervals, errors that respect clusters. Comparisons are in eval/paired.h.
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

double sum(std::span<const double> values);
// Sums of values and of weights (1 each where there are none) by cluster, in order of first appearance.
struct ClusterSums {
  std::vector<double> sum, weight;
};
ClusterSums sum_by_cluster(std::span<const double> values, std::span<const double> weights,
                           std::span<const std::string> clusters);
bool is_binary(std::span<const double> values);  // nothing but 0 and 1

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

}  // namespace nibble
