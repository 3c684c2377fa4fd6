#include "eval/paired.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "base/random.h"

namespace nibble {
namespace {

constexpr double kZ80 = 0.8416212335729143;

// Indices into `quant` of each sample of `base`, by key.
std::vector<size_t> pair_by_key(std::span<const Sample> base, std::span<const Sample> quant) {
  if (base.size() != quant.size()) {
    fail("cannot pair {} rows of the baseline with {} of the quantized model: score both on the same rows",
         base.size(), quant.size());
  }
  std::unordered_map<std::string_view, size_t> position;
  for (size_t i = 0; i < quant.size(); ++i) {
    if (!position.emplace(quant[i].key, i).second) fail("row '{}' appears twice", quant[i].key);
  }
  std::vector<size_t> order;
  order.reserve(base.size());
  for (const Sample& sample : base) {
    const auto found = position.find(sample.key);
    if (found == position.end())
      fail("row '{}' of the baseline has no partner: score both on the same rows", sample.key);
    order.push_back(found->second);
    position.erase(found);
  }
  return order;
}

}  // namespace

double mcnemar_exact(int64_t right_to_wrong, int64_t wrong_to_right) {
  NIBBLE_CHECK(right_to_wrong >= 0 && wrong_to_right >= 0);
  const int64_t n = right_to_wrong + wrong_to_right, least = std::min(right_to_wrong, wrong_to_right);
  const double log_half_n = -static_cast<double>(n) * std::log(2.0);
  double log_choose = 0, tail = 0;  // ln C(n, k), and the sum of C(n, k) / 2ⁿ for k ≤ least
  for (int64_t k = 0; k <= least; ++k) {
    tail += std::exp(log_choose + log_half_n);
    log_choose += std::log(static_cast<double>(n - k) / static_cast<double>(k + 1));
  }
  return std::min(1.0, 2 * tail);
}

double sign_flip_exact(std::span<const int64_t> cluster_differences) {
  int64_t observed = 0, reach = 0;
  for (const int64_t d : cluster_differences) {
    observed += d;
    reach += std::abs(d);
  }
  // probability[reach + s]: of the sum s over the clusters so far.
  std::vector<double> probability(static_cast<size_t>(2 * reach + 1)), next(probability.size());
  probability[static_cast<size_t>(reach)] = 1;
  int64_t so_far = 0;
  for (const int64_t difference : cluster_differences) {
    const int64_t d = std::abs(difference);
    if (d == 0) continue;
    std::fill(next.begin(), next.end(), 0.0);
    for (int64_t s = -so_far; s <= so_far; ++s) {
      const double half = probability[static_cast<size_t>(reach + s)] / 2;
      next[static_cast<size_t>(reach + s + d)] += half;
      next[static_cast<size_t>(reach + s - d)] += half;
    }
    so_far += d;
    std::swap(probability, next);
  }
  double tail = 0;
  for (int64_t s = -so_far; s <= so_far; ++s) {
    if (std::abs(s) >= std::abs(observed)) tail += probability[static_cast<size_t>(reach + s)];
  }
  return std::min(1.0, tail);
}

namespace {

// How often each of n indices is drawn in each of the resamples: [index][resample]. The last counts are kept,
// since a report compares many cells of as many rows.
std::span<const uint16_t> times_drawn(size_t n, uint64_t seed, size_t resamples) {
  struct Kept {
    size_t n = 0;
    uint64_t seed = 0;
    std::vector<uint16_t> times;
  };
  thread_local Kept kept;
  if (kept.n != n || kept.seed != seed || kept.times.size() != n * resamples) {
    kept = {n, seed, std::vector<uint16_t>(n * resamples)};
    Random random(seed);
    for (size_t r = 0; r < resamples; ++r)
      for (size_t i = 0; i < n; ++i) ++kept.times[random.below(n) * resamples + r];
  }
  return kept.times;
}

// The sum of n = values.size() values drawn with replacement, for each of the resamples; a seed always draws
// the same.
std::vector<double> resampled_sums(std::span<const double> values, uint64_t seed, size_t resamples) {
  constexpr size_t kMostCounts = size_t{4} << 20;  // 8 MB
  const size_t n = values.size();
  std::vector<double> sums(resamples);
  if (n * resamples > kMostCounts) {
    Random random(seed);
    for (double& s : sums)
      for (size_t i = 0; i < n; ++i) s += values[random.below(n)];
    return sums;
  }
  const std::span<const uint16_t> times = times_drawn(n, seed, resamples);
  for (size_t i = 0; i < n; ++i) {
    const double value = values[i];
    if (value == 0) continue;  // most differences of answers
    const std::span<const uint16_t> of_value = times.subspan(i * resamples, resamples);
    for (size_t r = 0; r < resamples; ++r) sums[r] += value * of_value[r];
  }
  return sums;
}

// Orders `values` only where percentile() will look for these, ascending.
void put_in_place(std::vector<double>& values, std::initializer_list<double> percentiles) {
  auto begin = values.begin();
  for (const double p : percentiles) {
    const auto below =
        values.begin() + static_cast<std::ptrdiff_t>(p / 100 * static_cast<double>(values.size() - 1));
    for (auto at = below; at != values.end() && at <= below + 1; ++at) {
      if (at < begin) continue;
      std::nth_element(begin, at, values.end());
      begin = at + 1;
    }
  }
}

}  // namespace

Interval bootstrap_mean(std::span<const double> differences, std::span<const std::string> clusters,
                        uint64_t seed, int resamples) {
  NIBBLE_CHECK(resamples > 0);
  if (differences.empty()) return {};
  const ClusterSums sums = sum_by_cluster(differences, {}, clusters);
  const size_t count = static_cast<size_t>(resamples);
  std::vector<double> means = resampled_sums(sums.sum, seed, count);
  const bool same_weights =
      std::all_of(sums.weight.begin(), sums.weight.end(), [&](double w) { return w == sums.weight.front(); });
  const std::vector<double> weights =
      same_weights ? std::vector<double>(count, sums.weight.front() * static_cast<double>(sums.sum.size()))
                   : resampled_sums(sums.weight, seed, count);
  for (size_t r = 0; r < count; ++r) means[r] /= weights[r];
  if (std::any_of(means.begin(), means.end(), [](double m) { return std::isnan(m); })) return {};
  put_in_place(means, {2.5, 97.5});
  return {percentile(means, 2.5), percentile(means, 97.5)};
}

PairedComparison compare_paired(std::span<const double> base, std::span<const double> quant,
                                std::span<const std::string> clusters, uint64_t seed) {
  NIBBLE_CHECK(base.size() == quant.size());
  PairedComparison result;
  result.n = static_cast<int64_t>(base.size());
  if (base.empty()) return result;
  std::vector<double> difference(base.size());
  for (size_t i = 0; i < base.size(); ++i) difference[i] = quant[i] - base[i];
  const Estimate estimate = clustered_mean(difference, clusters);
  result.clusters = static_cast<int64_t>(clusters.empty() ? base.size() : count_clusters(clusters));
  result.base = sum(base) / static_cast<double>(base.size());
  result.quant = sum(quant) / static_cast<double>(quant.size());
  result.diff = estimate.value;
  result.stderr_ = estimate.stderr_;
  const Interval interval = bootstrap_mean(difference, clusters, seed);
  result.ci_low = interval.low;
  result.ci_high = interval.high;
  double error = estimate.stderr_;
  if (is_binary(base) && is_binary(quant)) {
    for (const double d : difference) {
      result.right_to_wrong += d < 0;
      result.wrong_to_right += d > 0;
    }
    if (result.clusters < result.n) {
      std::vector<int64_t> by_cluster;
      for (const double d : sum_by_cluster(difference, {}, clusters).sum)
        by_cluster.push_back(static_cast<int64_t>(std::lround(d)));
      result.p_value = sign_flip_exact(by_cluster);
    } else {
      result.p_value = mcnemar_exact(result.right_to_wrong, result.wrong_to_right);
    }
    error = std::max(error, 1.0 / static_cast<double>(base.size()));
  } else {
    result.p_value = t_test(estimate, result.clusters);
  }
  result.smallest_detectable = (kZ975 + kZ80) * error;
  return result;
}

PairedComparison compare_samples(std::span<const Sample> base, std::span<const Sample> quant, uint64_t seed) {
  const std::vector<size_t> order = pair_by_key(base, quant);
  std::vector<double> base_scores, quant_scores;
  std::vector<std::string> clusters;
  for (size_t i = 0; i < base.size(); ++i) {
    base_scores.push_back(base[i].score);
    quant_scores.push_back(quant[order[i]].score);
    clusters.push_back(base[i].cluster);
  }
  return compare_paired(base_scores, quant_scores, clusters, seed);
}

LogPplRatio log_ppl_ratio(std::span<const double> nll_base, std::span<const double> nll_quant,
                          std::span<const double> tokens, std::span<const std::string> clusters) {
  NIBBLE_CHECK(nll_base.size() == nll_quant.size() && nll_base.size() == tokens.size());
  LogPplRatio result;
  result.windows = static_cast<int64_t>(nll_base.size());
  if (nll_base.empty()) return result;
  std::vector<double> difference(nll_base.size());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = nll_quant[i] - nll_base[i];
  const Estimate estimate = ratio_of_sums(difference, tokens, clusters);
  const size_t units = clusters.empty() ? tokens.size() : count_clusters(clusters);
  const Interval interval = t_interval(estimate, static_cast<double>(units));
  result.tokens = sum(tokens);
  result.ppl_base = std::exp(sum(nll_base) / result.tokens);
  result.ppl_quant = std::exp(sum(nll_quant) / result.tokens);
  result.value = estimate.value;
  result.stderr_ = estimate.stderr_;
  result.ci_low = interval.low;
  result.ci_high = interval.high;
  result.p_value = t_test(estimate, static_cast<int64_t>(units));
  return result;
}

LogPplRatio log_ppl_ratio(std::span<const Sample> base, std::span<const Sample> quant) {
  const std::vector<size_t> order = pair_by_key(base, quant);
  std::vector<double> nll_base, nll_quant, tokens;
  std::vector<std::string> clusters;
  for (size_t i = 0; i < base.size(); ++i) {
    const Sample& partner = quant[order[i]];
    if (base[i].tokens != partner.tokens) {
      fail("row '{}': {} tokens in the baseline, {} in the quantized model: both must use one tokenizer",
           base[i].key, base[i].tokens, partner.tokens);
    }
    nll_base.push_back(base[i].score);
    nll_quant.push_back(partner.score);
    tokens.push_back(base[i].tokens);
    clusters.push_back(base[i].cluster);
  }
  return log_ppl_ratio(nll_base, nll_quant, tokens, clusters);
}

std::vector<double> holm(std::span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double highest = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    const double p = p_values[order[k]] * static_cast<double>(order.size() - k);
    highest = std::max(highest, std::min(1.0, p));
    adjusted[order[k]] = highest;
  }
  return adjusted;
}

}  // namespace nibble
