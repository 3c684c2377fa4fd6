#include "quant/grid.h"
#include "quant/methods.h"

namespace nibble {

Quantized quantize_rtn(std::span<const float> weight, const InputStatistics&, const MethodOptions& options,
                       ThreadPool& pool) {
  Quantized out{QuantizedMatrix(options.format), 0, "", false};
  QuantizedMatrix& m = out.matrix;
  const PackedFormat& f = m.format;
  pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
    for (size_t row = begin; row < end; ++row) {
      const float* w = weight.data() + row * static_cast<size_t>(f.k);
      const float unit = row_unit({w, static_cast<size_t>(f.k)}, f);
      for (int64_t g = 0; g < f.groups(); ++g) {
        const size_t first = static_cast<size_t>(g * f.group());
        const size_t count = static_cast<size_t>(std::min(f.group(), f.k - g * f.group()));
        const Grid grid = fit_range({w + first, count}, f, unit);
        const size_t at = row * static_cast<size_t>(f.groups()) + static_cast<size_t>(g);
        m.scales[at] = grid.scale;
        m.zeros[at] = static_cast<uint8_t>(grid.zero);
        for (size_t i = first; i < first + count; ++i)
          m.codes[row * static_cast<size_t>(f.k) + i] = static_cast<uint8_t>(grid.code(w[i], f.max_code()));
      }
    }
  });
  return out;
}

}  // namespace nibble
