// The integers and grids of one quantized linear as they are learned by signed gradient steps (SignRound,
// Cheng et al. 2023, and AutoRound after it): a shift in [−½, ½] is added to each weight, in steps of its
// grid, before it is rounded, and each end of a group's range is multiplied by a factor in [0, 1]. All starts
// where a method ended: shifts of 0 and the first factors give its integers and its grids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/packed.h"

namespace nibble {

// A group's grid, whose ends are factors of the range it may span, and its straight-through gradient. With
// s = (high − low) / max_code and z = −low / s a weight w with shift v stands for
//   s·(clamp(round(w/s + v) + z, 0, max_code) − z);
// rounding counts as a constant that is added, so that inside the range ∂/∂s is the rounding's own error in
// steps, and outside it the code's distance to z. Symmetric: low is −middle·s, and z stays.
struct EndsGradient {
  double low = 0, high = 0;  // ∂loss/∂low, ∂loss/∂high; symmetric: low is ∂loss/∂s, high 0
};
// dw[i]: ∂loss/∂(what weight i stands for); v[i]: the shifts.
EndsGradient ends_gradient(std::span<const float> w, std::span<const float> v, std::span<const float> dw,
                           float scale, int zero, const PackedFormat& format);

class LearnedRounding {
 public:
  // start: what the method made of `original` [n, k], which may come with other lengths of rows and columns
  // (channel scales that were folded into the operations around): they are brought to start's. A weight that
  // the method gave another integer than the nearest begins at the edge of that integer's interval.
  LearnedRounding(QuantizedMatrix start, std::vector<float> original, ThreadPool& pool);

  // out[n, k] = what the weights stand for now.
  void values(float* out, ThreadPool& pool) const;
  // Against the sign of the gradient dw [n, k]: shifts by `rate` steps of the grid, factors by `ends_rate`.
  void step(const float* dw, float rate, float ends_rate, ThreadPool& pool);
  QuantizedMatrix stored(ThreadPool& pool) const;  // as values(): scales as they are stored
  const QuantizedMatrix& start() const { return start_; }
  int64_t changed(const QuantizedMatrix& now) const;  // integers that are not the method's

 private:
  struct GroupGrid {
    float scale;
    int zero;
  };
  GroupGrid grid(size_t group) const;
  template <typename Body>
  void for_groups(ThreadPool& pool, const Body& body) const;

  QuantizedMatrix start_;
  std::vector<float> units_;                     // of the rows' scales, where these are bytes
  std::vector<float> weights_, shifts_;          // [n, k]
  std::vector<float> low_, high_;                // [n, groups], the widest ends; symmetric: low_ the scale
  std::vector<float> low_factor_, high_factor_;  // [n, groups]
};

}  // namespace nibble
