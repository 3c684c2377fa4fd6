#include "train/training_loop.h"

#include <algorithm>

#include "base/memory_usage.h"

namespace nibble {
namespace {

constexpr double kSmoothing = 0.9;
constexpr const char* kWhere = "what a stopped training left";

}  // namespace

uint64_t TrainingLoop::peak_rss() const { return std::max(peak_rss_before_, peak_rss_bytes()); }

bool TrainingLoop::check_is_due(int total) const {
  if (checked_ == steps_) return false;
  return steps_ == 0 || int64_t{steps_} * checks_ / total > int64_t{steps_ - 1} * checks_ / total;
}

template <typename Work>
void TrainingLoop::or_save(const Work& work) {
  try {
    work();
  } catch (...) {
    save();
    throw;
  }
}

void TrainingLoop::save() {
  unfinished_.save(arrays(), {{"steps", steps_},
                              {"checked", checked_},
                              {"smoothed", smoothed_},
                              {"seconds", seconds()},
                              {"peak_rss", peak_rss()},
                              {"facts", facts()}});
}

void TrainingLoop::resume_kept(int total) {
  const auto kept = unfinished_.load(arrays());
  if (!kept) return;
  steps_ = json_get<int>(*kept, "steps", kWhere);
  if (steps_ < 0 || steps_ > total) fail("{}: {} steps of {}", kWhere, steps_, total);
  checked_ = json_get<int>(*kept, "checked", kWhere);
  smoothed_ = json_get<double>(*kept, "smoothed", kWhere);
  seconds_before_ = json_get<double>(*kept, "seconds", kWhere);
  peak_rss_before_ = json_get<uint64_t>(*kept, "peak_rss", kWhere);
  resume(steps_, json_get<Json>(*kept, "facts", kWhere));
}

void TrainingLoop::run(int total) {
  resume_kept(total);
  for (;;) {
    if (check_is_due(total)) {
      or_save([&] {
        const double loss = check(steps_);
        if (steps_ == 0) smoothed_ = loss;
        checked_ = steps_;
      });
    }
    if (steps_ == total) break;
    if (steps_ > 0 && unfinished_.is_due(steps_)) save();
    const auto loss = train(steps_ + 1);
    if (!loss) break;
    ++steps_;
    smoothed_ = kSmoothing * smoothed_ + (1 - kSmoothing) * *loss;
    or_save([&] { progress(steps_, smoothed_); });
  }
  save();
}

}  // namespace nibble
