// Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019).
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "train/parameters.h"
#include "train/unfinished_training.h"

namespace nibble {

struct AdamOptions {
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
};

// How one parameter moves.
struct AdamRule {
  Parameter* parameter = nullptr;
  double rate = 1e-3;     // of a step where the schedule stands at 1
  bool relative = false;  // steps are shares of each value, by the gradient to its logarithm; signs stay
  double decay = 0;       // share of each value taken away a step, times the rate
};

class Adam {
 public:
  Adam(std::vector<AdamRule> rules, const AdamOptions& options);
  // Moves every parameter along its gradient, at `schedule` times its rate, and sets the gradient to 0.
  void step(double schedule, ThreadPool& pool);
  int64_t steps() const { return steps_; }

  // What it goes on from: values and moments of the parameters, and the steps they have seen.
  StateArrays state();
  void resume_after(int64_t steps) { steps_ = steps; }

 private:
  struct Moments {
    std::vector<float> first, second;
  };
  std::vector<AdamRule> rules_;
  std::vector<Moments> moments_;
  AdamOptions options_;
  int64_t steps_ = 0;
};

}  // namespace nibble
