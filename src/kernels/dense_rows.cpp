#include "kernels/dense_rows.h"

#include <algorithm>

namespace nibble {

void dense_rows(const DenseView& w, int64_t first, int64_t count, float* out, const KernelTable& table) {
  const int64_t size = count * w.k;
  if (w.dtype == DType::kF32) {
    std::copy_n(static_cast<const float*>(w.data) + first * w.k, size, out);
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(w.data) + first * w.k;
  if (w.dtype == DType::kF16) {
    table.from_f16(from, out, size);
  } else {
    for (int64_t i = 0; i < size; ++i) out[i] = bf16_to_float(from[i]);
  }
}

std::vector<float> dense_values(const DenseView& w) {
  std::vector<float> values(static_cast<size_t>(w.n * w.k));
  dense_rows(w, 0, w.n, values.data());
  return values;
}

}  // namespace nibble
