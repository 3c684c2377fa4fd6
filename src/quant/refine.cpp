#include "quant/refine.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "quant/linalg.h"

namespace nibble {

void refine_codes(std::span<const float> weight, const InputStatistics& input, double damp, int sweeps,
                  QuantizedMatrix& m, ThreadPool& pool) {
  const PackedFormat& f = m.format;
  const int64_t k = f.k;
  std::vector<float> gram = input.gram;
  const float added = static_cast<float>(damp * input.mean_diagonal());
  for (int64_t i = 0; i < k; ++i) gram[static_cast<size_t>(i * k + i)] += added;
  // gradient = (W − Ŵ)·G: half the derivative of the loss by −Ŵ.
  std::vector<float> difference = dequantize(m, pool), gradient(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) difference[i] = weight[i] - difference[i];
  product(difference.data(), gram.data(), gradient.data(), f.n, k, k, pool);
  const KernelTable& kernel = kernels();
  pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
    for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
      float* slope = gradient.data() + row * k;
      uint8_t* codes = m.codes.data() + row * k;
      for (int sweep = 0; sweep < sweeps; ++sweep) {
        bool moved = false;
        for (int64_t i = 0; i < k; ++i) {
          const float scale = m.scales[static_cast<size_t>(row * f.groups() + i / f.group())];
          const float curvature = gram[static_cast<size_t>(i * k + i)] * scale;
          if (curvature == 0) continue;
          const float wanted = std::nearbyintf(slope[i] / curvature);
          if (!(std::fabs(wanted) >= 1)) continue;
          const int code = static_cast<int>(
              std::clamp(static_cast<float>(codes[i]) + wanted, 0.0f, static_cast<float>(f.max_code())));
          const int step = code - codes[i];
          if (step == 0) continue;
          codes[i] = static_cast<uint8_t>(code);
          kernel.axpy(slope, -scale * static_cast<float>(step), gram.data() + i * k, k);
          moved = true;
        }
        if (!moved) break;
      }
    }
  });
}

}  // namespace nibble
