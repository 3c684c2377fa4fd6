// Coordinate descent on the integers: scales and zero points stay.
#pragma once

#include <span>

#include "quant/method.h"

namespace nibble {

// Moves codes, one input after the other and rows apart, to where tr((W−Ŵ)·(G + λI)·(W−Ŵ)ᵀ) is
// least while the other codes stand still (QuantEase, Behdin et al. 2023, arXiv:2309.01885);
// λ = damp · mean diagonal of G. `sweeps` passes over the inputs; a pass that moves nothing ends it.
void refine_codes(std::span<const float> weight, const InputStatistics& input, double damp, int sweeps,
                  QuantizedMatrix& matrix, ThreadPool& pool);

}  // namespace nibble
