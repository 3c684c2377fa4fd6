// The factor of the inverse Hessian that GPTQ spreads errors with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quant/method.h"

namespace nibble {

struct InverseHessian {
  double asked = 0;  // damping
  bool act_order = false;
  std::vector<int64_t> order;  // position in the factor → input: as stored, or by falling diagonal
  std::vector<float> factor;  // [k, k] upper U with H⁻¹ = Uᵀ·U, in that order; empty: none could be found
  double damp = 0;            // what was needed
  int64_t dead = 0;           // inputs that were never active; their diagonal is 1 (and the damping)
};

// Of H = gram / tokens + damp · mean diagonal. A Hessian that cannot be factored, or whose factor does
// not invert it, is damped ten times as much, up to 1. Kept in `input` for the next linear that reads
// it. `input` has a finite Gram matrix and tokens.
std::shared_ptr<const InverseHessian> inverse_hessian(const InputStatistics& input, double damp,
                                                      bool act_order, ThreadPool& pool);

// Above it a layer is rounded instead.
inline constexpr double kLargestDamp = 1.0;

}  // namespace nibble
