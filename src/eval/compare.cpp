#include "eval/compare.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  if (std::isinf(top)) return top;  // all −inf, or one +inf: no distribution
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

OrderedJson number(double value) { return OrderedJson(json_number(value)); }

// Clustered by window where there are several; else over positions.
Estimate best_estimate(std::span<const double> values, std::span<const std::string> windows) {
  const Estimate clustered = clustered_mean(values, windows);
  return std::isnan(clustered.stderr_) ? mean_with_error(values) : clustered;
}

}  // namespace

PositionDistance position_distance(std::span<const float> base, std::span<const float> quant,
                                   int32_t true_token) {
  NIBBLE_CHECK(!base.empty() && base.size() == quant.size());
  NIBBLE_CHECK(true_token >= 0 && static_cast<size_t>(true_token) < base.size());
  const double z_base = log_sum_exp(base), z_quant = log_sum_exp(quant);
  PositionDistance distance;
  for (size_t i = 0; i < base.size(); ++i) {
    const double log_p = base[i] - z_base, p = std::exp(log_p);
    if (p != 0) distance.kl += p * (log_p - (quant[i] - z_quant));
  }
  distance.kl = distance.kl < 0 ? 0 : distance.kl;  // rounding; keeps NaN
  const size_t token = static_cast<size_t>(true_token);
  distance.nll_base = z_base - base[token];
  distance.nll_quant = z_quant - quant[token];
  distance.p_base = std::exp(-distance.nll_base);
  distance.p_quant = std::exp(-distance.nll_quant);
  distance.same_top1 =
      !std::isnan(distance.kl) && std::max_element(base.begin(), base.end()) - base.begin() ==
                                      std::max_element(quant.begin(), quant.end()) - quant.begin();
  return distance;
}

void ComparisonBuilder::add(size_t window, const PositionDistance& position) {
  kl_.push_back(position.kl);
  dp_.push_back(position.p_quant - position.p_base);
  nll_base_.push_back(position.nll_base);
  nll_quant_.push_back(position.nll_quant);
  window_.push_back(std::to_string(window));
  same_top1_ += position.same_top1;
}

Comparison ComparisonBuilder::result(const ComparisonBuilder* first) const {
  Comparison c;
  c.tokens = static_cast<int64_t>(kl_.size());
  if (kl_.empty()) return c;
  const double n = static_cast<double>(kl_.size());
  c.windows = static_cast<int64_t>(count_clusters(window_));
  c.not_finite = std::count_if(kl_.begin(), kl_.end(), [](double kl) { return !std::isfinite(kl); });

  const Estimate kl = best_estimate(kl_, window_);
  c.kl_mean = kl.value;
  c.kl_stderr = kl.stderr_;
  c.kl_stderr_positions = mean_with_error(kl_).stderr_;
  if (std::none_of(kl_.begin(), kl_.end(), [](double v) { return std::isnan(v); })) {
    std::vector<double> sorted = kl_;
    std::sort(sorted.begin(), sorted.end());
    c.kl_p50 = percentile(sorted, 50);
    c.kl_p90 = percentile(sorted, 90);
    c.kl_p95 = percentile(sorted, 95);
    c.kl_p99 = percentile(sorted, 99);
    c.kl_p999 = percentile(sorted, 99.9);
    c.kl_max = sorted.back();
  }
  c.top1_agreement = static_cast<double>(same_top1_) / n;
  c.top1_stderr = std::sqrt(c.top1_agreement * (1 - c.top1_agreement) / n);

  const Estimate dp = best_estimate(dp_, window_);
  c.dp_mean = dp.value;
  c.dp_stderr = dp.stderr_;
  double squares = 0, base = 0, quant = 0;
  std::vector<double> ratio(kl_.size());
  for (size_t i = 0; i < kl_.size(); ++i) {
    squares += dp_[i] * dp_[i];
    base += nll_base_[i];
    quant += nll_quant_[i];
    ratio[i] = nll_quant_[i] - nll_base_[i];
  }
  c.dp_rms = std::sqrt(squares / n);
  c.ppl_base = std::exp(base / n);
  c.ppl_quant = std::exp(quant / n);
  c.ln_ppl_ratio = best_estimate(ratio, window_);
  if (first) {
    NIBBLE_CHECK(first->kl_.size() == kl_.size());
    std::vector<double> difference(kl_.size());
    for (size_t i = 0; i < kl_.size(); ++i) difference[i] = kl_[i] - first->kl_[i];
    c.kl_minus_first = best_estimate(difference, window_);
  }
  return c;
}

OrderedJson to_json(const Comparison& c) {
  OrderedJson json;
  json["window"] = c.window;
  json["windows"] = c.windows;
  json["tokens"] = c.tokens;
  json["kl"] = {{"mean", number(c.kl_mean)},
                {"stderr", number(c.kl_stderr)},
                {"stderr_positions", number(c.kl_stderr_positions)},
                {"p50", number(c.kl_p50)},
                {"p90", number(c.kl_p90)},
                {"p95", number(c.kl_p95)},
                {"p99", number(c.kl_p99)},
                {"p99.9", number(c.kl_p999)},
                {"max", number(c.kl_max)}};
  if (!std::isnan(c.kl_minus_first.value))
    json["kl_minus_first"] = {{"mean", number(c.kl_minus_first.value)},
                              {"stderr", number(c.kl_minus_first.stderr_)}};
  json["top1_agreement"] = number(c.top1_agreement);
  json["top1_stderr"] = number(c.top1_stderr);
  json["delta_p"] = {{"mean", number(c.dp_mean)}, {"stderr", number(c.dp_stderr)}, {"rms", number(c.dp_rms)}};
  json["ppl_base"] = number(c.ppl_base);
  json["ppl_quant"] = number(c.ppl_quant);
  json["ln_ppl_ratio"] = {{"mean", number(c.ln_ppl_ratio.value)}, {"stderr", number(c.ln_ppl_ratio.stderr_)}};
  json["not_finite"] = c.not_finite;
  return json;
}

}  // namespace nibble
