#include "train/adam.h"

#include <cmath>

namespace nibble {

Adam::Adam(std::vector<AdamRule> rules, const AdamOptions& options)
    : rules_(std::move(rules)), options_(options) {
  for (const AdamRule& rule : rules_) {
    const size_t size = rule.parameter->value.size();
    moments_.push_back({std::vector<float>(size), std::vector<float>(size)});
  }
}

void Adam::step(double schedule, ThreadPool& pool) {
  ++steps_;
  const double n = static_cast<double>(steps_);
  const float unbias1 = static_cast<float>(1 / (1 - std::pow(double{options_.beta1}, n)));
  const float unbias2 = static_cast<float>(1 / (1 - std::pow(double{options_.beta2}, n)));
  for (size_t p = 0; p < rules_.size(); ++p) {
    const AdamRule& rule = rules_[p];
    const float rate = static_cast<float>(rule.rate * schedule),
                shrink = 1.0f - rate * static_cast<float>(rule.decay);
    float *value = rule.parameter->value.data(), *gradient = rule.parameter->gradient.data();
    float *first = moments_[p].first.data(), *second = moments_[p].second.data();
    pool.parallel_for(rule.parameter->value.size(), 4096, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        const float g = rule.relative ? gradient[i] * value[i] : gradient[i];
        first[i] = options_.beta1 * first[i] + (1.0f - options_.beta1) * g;
        second[i] = options_.beta2 * second[i] + (1.0f - options_.beta2) * g * g;
        const float move = rate * first[i] * unbias1 / (std::sqrt(second[i] * unbias2) + options_.epsilon);
        value[i] = value[i] * shrink - (rule.relative ? move * value[i] : move);
        gradient[i] = 0;
      }
    });
  }
}

StateArrays Adam::state() {
  StateArrays arrays;
  for (size_t p = 0; p < rules_.size(); ++p) {
    const std::string& name = rules_[p].parameter->name;
    arrays.emplace_back("value." + name, &rules_[p].parameter->value);
    arrays.emplace_back("first." + name, &moments_[p].first);
    arrays.emplace_back("second." + name, &moments_[p].second);
  }
  return arrays;
}

}  // namespace nibble
