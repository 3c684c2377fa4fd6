#include "quant/feed_forward.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/inverse_hessian.h"
#include "quant/linalg.h"

namespace nibble {
namespace {

// D·H⁻¹ with D over all tokens.
std::vector<float> correction(const std::vector<float>& weight, int64_t n, const InputStatistics& input,
                              const InverseHessian& inverse, ThreadPool& pool) {
  const int64_t k = input.k;
  std::vector<float> d(weight.size());
  if (!input.pull.empty()) {
    NIBBLE_CHECK(input.pull.size() == weight.size());
    product(weight.data(), input.gram.data(), d.data(), n, k, k, pool);
    for (size_t i = 0; i < d.size(); ++i) d[i] = input.pull[i] - d[i];
  } else {
    product(weight.data(), input.drift.data(), d.data(), n, k, k, pool);
  }
  const float scale = 1.0f / static_cast<float>(input.tokens);
  for (float& v : d) v *= scale;
  multiply_by_inverse(d, n, inverse.factor, k, pool);
  return d;
}

// The α for which α·c·x is nearest to t − W·x over the held-out rows.
double best_share(const std::vector<float>& weight, const std::vector<float>& c, int64_t n,
                  const InputStatistics& input, ThreadPool& pool) {
  const int64_t k = input.k, rows = static_cast<int64_t>(input.held_out.size()) / k;
  std::vector<float> wanted(static_cast<size_t>(n * rows)), got(wanted.size());
  if (!input.held_out_target.empty()) {
    product_transposed(weight.data(), input.held_out.data(), wanted.data(), n, rows, k, pool);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = 0; r < rows; ++r) {
        float& v = wanted[static_cast<size_t>(i * rows + r)];
        v = input.held_out_target[static_cast<size_t>(r * n + i)] - v;
      }
    }
  } else {
    std::vector<float> difference(input.held_out.size());
    for (size_t i = 0; i < difference.size(); ++i)
      difference[i] = input.held_out_reference[i] - input.held_out[i];
    product_transposed(weight.data(), difference.data(), wanted.data(), n, rows, k, pool);
  }
  product_transposed(c.data(), input.held_out.data(), got.data(), n, rows, k, pool);
  double along = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    along += double{wanted[i]} * double{got[i]};
    size += double{got[i]} * double{got[i]};
  }
  return size > 0 ? std::clamp(along / size, 0.0, 1.0) : 0.0;
}

}  // namespace

double feed_forward(std::vector<float>& weight, int64_t n, const InputStatistics& input, double damp,
                    ThreadPool& pool) {
  if ((input.drift.empty() && input.pull.empty()) || !input.finite || input.tokens == 0) return 0;
  const auto inverse = inverse_hessian(input, damp, false, pool);
  if (inverse->factor.empty()) return 0;
  const std::vector<float> c = correction(weight, n, input, *inverse, pool);
  const double share = input.held_out.empty() ? 1.0 : best_share(weight, c, n, input, pool);
  if (!std::isfinite(share) || share == 0) return 0;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] += static_cast<float>(share) * c[i];
  return share;
}

}  // namespace nibble
