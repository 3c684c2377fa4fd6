#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <unordered_map>

namespace nibble {
namespace {

// Rows grouped by cluster key, clusters in order of first appearance.
std::vector<size_t> cluster_indices(std::span<const std::string> clusters, size_t n, size_t& count) {
  std::vector<size_t> index(n);
  if (clusters.empty()) {
    std::iota(index.begin(), index.end(), size_t{0});
    count = n;
    return index;
  }
  NIBBLE_CHECK(clusters.size() == n);
  std::unordered_map<std::string_view, size_t> seen;
  for (size_t i = 0; i < n; ++i) index[i] = seen.emplace(clusters[i], seen.size()).first->second;
  count = seen.size();
  return index;
}

}  // namespace

double sum(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

ClusterSums sum_by_cluster(std::span<const double> values, std::span<const double> weights,
                           std::span<const std::string> clusters) {
  size_t count = 0;
  const std::vector<size_t> index = cluster_indices(clusters, values.size(), count);
  ClusterSums sums{std::vector<double>(count), std::vector<double>(count)};
  for (size_t i = 0; i < values.size(); ++i) {
    sums.sum[index[i]] += values[i];
    sums.weight[index[i]] += weights.empty() ? 1.0 : weights[i];
  }
  return sums;
}

bool is_binary(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return v == 0 || v == 1; });
}

double student_t_975(double df) {
  if (df < 1) return std::numeric_limits<double>::infinity();
  constexpr double kExact[] = {12.706204736174698, 4.302652729749464, 3.1824463052842624, 2.7764451051977934};
  if (df <= 4 && df == std::floor(df)) return kExact[static_cast<int>(df) - 1];
  const double z = kZ975, z2 = z * z;
  const double g1 = z * (z2 + 1) / 4;
  const double g2 = z * (5 * z2 * z2 + 16 * z2 + 3) / 96;
  const double g3 = z * (3 * z2 * z2 * z2 + 19 * z2 * z2 + 17 * z2 - 15) / 384;
  const double g4 =
      z * (79 * z2 * z2 * z2 * z2 + 776 * z2 * z2 * z2 + 1482 * z2 * z2 - 1920 * z2 - 945) / 92160;
  return z + g1 / df + g2 / (df * df) + g3 / (df * df * df) + g4 / (df * df * df * df);
}

double student_t_p(double t, int64_t df) {
  if (std::isnan(t) || df < 1) return kUnknown;
  const double nu = static_cast<double>(df), theta = std::atan(std::abs(t) / std::sqrt(nu));
  const double cosine = std::cos(theta), sine = std::sin(theta);
  // A(t|ν) = P(|T| < |t|): for odd ν a sum of cos θ, cos³ θ·2/3, cos⁵ θ·2·4/(3·5), …; for even ν of
  // 1, cos² θ/2, cos⁴ θ·1·3/(2·4), …
  const bool odd = df % 2 == 1;
  double term = odd ? cosine : 1, sum = df == 1 ? 0 : term;
  for (int64_t k = odd ? 3 : 2; k <= df - 2; k += 2) {
    const auto n = static_cast<double>(k);
    term *= cosine * cosine * (n - 1) / n;
    sum += term;
  }
  const double within = odd ? 2 / std::numbers::pi * (theta + sine * sum) : sine * sum;
  return std::clamp(1 - within, 0.0, 1.0);
}

double t_test(const Estimate& estimate, int64_t units) {
  if (!(estimate.stderr_ > 0) || units < 2) return 1;
  return student_t_p(estimate.value / estimate.stderr_, units - 1);
}

Interval t_interval(const Estimate& estimate, double units) {
  if (units < 2) return {};
  const double half = student_t_975(units - 1) * estimate.stderr_;
  return {estimate.value - half, estimate.value + half};
}

Interval wilson_interval(double successes, double n) {
  NIBBLE_CHECK(n > 0 && successes >= 0 && successes <= n);
  const double p = successes / n, z2 = kZ975 * kZ975;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kZ975 / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  // The exact ends at 0 and 1, which rounding would miss.
  return {successes == 0 ? 0.0 : std::max(0.0, centre - half),
          successes == n ? 1.0 : std::min(1.0, centre + half)};
}

Estimate mean_with_error(std::span<const double> values) { return clustered_mean(values, {}); }

Estimate clustered_mean(std::span<const double> values, std::span<const std::string> clusters) {
  return ratio_of_sums(values, {}, clusters);
}

size_t count_clusters(std::span<const std::string> clusters) {
  size_t count = 0;
  cluster_indices(clusters, clusters.size(), count);
  return count;
}

Estimate ratio_of_sums(std::span<const double> numerator, std::span<const double> denominator,
                       std::span<const std::string> clusters) {
  NIBBLE_CHECK(denominator.empty() || denominator.size() == numerator.size());
  if (numerator.empty()) return {};
  const ClusterSums sums = sum_by_cluster(numerator, denominator, clusters);
  const double total = sum(sums.weight);
  Estimate estimate;
  estimate.value = sum(numerator) / total;
  const double n_clusters = static_cast<double>(sums.sum.size());
  if (n_clusters < 2) return estimate;
  double squares = 0;
  for (size_t g = 0; g < sums.sum.size(); ++g) {
    const double residual = sums.sum[g] - estimate.value * sums.weight[g];
    squares += residual * residual;
  }
  estimate.stderr_ = std::sqrt(n_clusters / (n_clusters - 1) * squares) / total;
  return estimate;
}

double percentile(std::span<const double> sorted, double p) {
  NIBBLE_CHECK(!sorted.empty() && p >= 0 && p <= 100);
  const double position = p / 100 * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(position);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double part = position - static_cast<double>(below);
  return part == 0 ? sorted[below] : sorted[below] + part * (sorted[below + 1] - sorted[below]);
}

Percentiles percentile_summary(std::span<const double> values) {
  if (values.empty()) return {};
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  Percentiles p = {sum(values) / static_cast<double>(values.size()), percentile(sorted, 50),
                   percentile(sorted, 90), percentile(sorted, 95), percentile(sorted, 99)};
  constexpr double kWhisker = 1.5;  // box lengths (Tukey)
  p.min = sorted.front();
  p.max = sorted.back();
  p.p25 = percentile(sorted, 25);
  p.p75 = percentile(sorted, 75);
  const double reach = kWhisker * (p.p75 - p.p25);
  p.whisker_low = *std::lower_bound(sorted.begin(), sorted.end(), p.p25 - reach);
  p.whisker_high = *std::prev(std::upper_bound(sorted.begin(), sorted.end(), p.p75 + reach));
  return p;
}

Metric proportion_metric(std::span<const double> scores, std::span<const std::string> clusters) {
  NIBBLE_CHECK(!scores.empty() && is_binary(scores));
  const Estimate estimate = clustered_mean(scores, clusters);
  const double n = static_cast<double>(scores.size()), p = estimate.value;
  double effective = n;
  if (p == 0 || p == 1) {
    effective = clusters.empty() ? n : static_cast<double>(count_clusters(clusters));
  } else if (estimate.stderr_ > 0) {
    effective = std::min(n, p * (1 - p) / (estimate.stderr_ * estimate.stderr_));
  }
  const Interval interval = wilson_interval(p * effective, effective);
  return {p, estimate.stderr_, interval.low, interval.high};
}

Metric mean_metric(std::span<const double> values, std::span<const std::string> clusters) {
  const Estimate estimate = clustered_mean(values, clusters);
  const size_t units = clusters.empty() ? values.size() : count_clusters(clusters);
  const Interval interval = t_interval(estimate, static_cast<double>(units));
  return {estimate.value, estimate.stderr_, interval.low, interval.high};
}

Metric perplexity_metric(std::span<const double> nll, std::span<const double> tokens,
                         std::span<const std::string> clusters) {
  const Estimate estimate = ratio_of_sums(nll, tokens, clusters);
  const size_t units = clusters.empty() ? nll.size() : count_clusters(clusters);
  const Interval interval = t_interval(estimate, static_cast<double>(units));
  const double ppl = std::exp(estimate.value);
  return {ppl, ppl * estimate.stderr_, std::exp(interval.low), std::exp(interval.high)};
}

}  // namespace nibble
