// Error fed forward: weights corrected for what the layers before have lost, before they are rounded.
#pragma once

#include <vector>

#include "quant/method.h"

namespace nibble {

// A linear whose input is x where the unquantized model has r should give t = W·r (or what brings the
// residual stream back) from x: the W* that does it best is W + D·H⁻¹ with D = Σ (t − W·x)·xᵀ (QEP, Arai
// & Ichikawa 2025, arXiv:2504.09629; the asymmetric calibration of GPTAQ, Li et al. 2025,
// arXiv:2504.02692), and whatever rounds W* against x's own Hessian then rounds for t. Makes
// weight [n, k] W + α·D·H⁻¹, where α in [0, 1] is what serves the held-out rows best; 1 without such rows.
// Returns α. 0, and the weight as it was, when `input` knows nothing of the unquantized stream, or H
// (damped by `damp`) cannot be inverted.
double feed_forward(std::vector<float>& weight, int64_t n, const InputStatistics& input, double damp,
                    ThreadPool& pool);

}  // namespace nibble
