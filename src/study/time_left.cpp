#include "study/time_left.h"

#include <algorithm>

namespace nibble {

void TimeLeft::add_done(const Variant& variant, const std::string& work, double seconds) {
  const Work key{variant, work};
  for (auto& [known, value] : done_) {
    if (known == key) {
      value = seconds;
      return;
    }
  }
  done_.emplace_back(key, seconds);
}

bool TimeLeft::knows(const Variant& variant, const std::string& work) const {
  return std::any_of(done_.begin(), done_.end(), [&](const auto& entry) {
    return entry.first == Work{variant, work};
  });
}

std::optional<double> TimeLeft::guess(const Work& work) const {
  constexpr int kLevels = 4;
  double sum[kLevels] = {};
  int count[kLevels] = {};
  for (const auto& [known, seconds] : done_) {
    const bool same_work = known.second == work.second;
    const bool same_model = same_work && known.first.model == work.first.model;
    const bool same_method = same_model && known.first.method == work.first.method;
    const bool fits[kLevels] = {same_method, same_model, same_work, true};
    for (int i = 0; i < kLevels; ++i) {
      if (!fits[i]) continue;
      sum[i] += seconds;
      ++count[i];
    }
  }
  for (int i = 0; i < kLevels; ++i) {
    if (count[i] > 0) return sum[i] / count[i];
  }
  return std::nullopt;
}

std::optional<double> TimeLeft::estimate(const std::vector<Work>& left) const {
  double total = 0;
  for (const Work& work : left) {
    const auto seconds = guess(work);
    if (!seconds) return std::nullopt;
    total += *seconds;
  }
  return total;
}

}  // namespace nibble
