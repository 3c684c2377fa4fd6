#include "model/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace nibble {

void SamplingOptions::validate() const {
  if (!(temperature >= 0) || !std::isfinite(temperature))
    throw UsageError(fmt::format("temperature {}: 0 or more", temperature));
  if (!(top_p > 0) || !(top_p <= 1)) throw UsageError(fmt::format("top-p {}: above 0, at most 1", top_p));
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  options.validate();
}

int32_t Sampler::next(std::span<const float> logits) {
  NIBBLE_CHECK(!logits.empty());
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  }
  const float top = logits[best];
  if (options_.temperature == 0 || !std::isfinite(top)) return static_cast<int32_t>(best);
  weights_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((double{logits[i]} - double{top}) / options_.temperature);
    if (!(weight > 0)) continue;
    weights_.emplace_back(weight, static_cast<int32_t>(i));
    total += weight;
  }
  if (options_.top_p < 1) {
    std::stable_sort(weights_.begin(), weights_.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    double reached = 0;
    size_t kept = 0;
    while (kept < weights_.size() && reached < options_.top_p * total) reached += weights_[kept++].first;
    weights_.resize(kept);
    total = reached;
  }
  double left = random_.uniform() * total;
  for (const auto& [weight, token] : weights_) {
    left -= weight;
    if (left < 0) return token;
  }
  return weights_.back().second;
}

}  // namespace nibble
