#include "quant/gptq.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/ops.h"
#include "quant/compute.h"
#include "quant/grid.h"
#include "quant/inverse_hessian.h"
#include "quant/linalg.h"
#include "quant/methods.h"
#include "quant/refine.h"

namespace nibble {
namespace {

constexpr int64_t kBlockColumns = 128;
constexpr int kSweeps = 3;
constexpr double kLeastTokensPerInput = 0.005;  // below this share GPTQModel too gives up on a layer

// Columns a lazy block takes: whole groups, about 128.
int64_t block_columns(const PackedFormat& format) {
  const int64_t group = format.group();
  if (group >= format.k || group >= kBlockColumns) return group >= format.k ? kBlockColumns : group;
  return kBlockColumns / group * group;
}

void store_grid(QuantizedMatrix& m, int64_t row, int64_t group, const Grid& grid) {
  const size_t at = static_cast<size_t>(row * m.format.groups() + group);
  m.scales[at] = grid.scale;
  m.zeros[at] = static_cast<uint8_t>(grid.zero);
}

// The grids of every group from the weights given; column weights 1/U[j,j]² are what an error in
// column j costs GPTQ.
void fit_all(QuantizedMatrix& m, const float* weight, const std::vector<float>& cost,
             const std::vector<float>& units, ThreadPool& pool) {
  const PackedFormat& f = m.format;
  pool.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
    for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
      const float unit = units[static_cast<size_t>(row)];
      for (int64_t g = 0; g < f.groups(); ++g) {
        const size_t first = static_cast<size_t>(g * f.group());
        const size_t count = static_cast<size_t>(std::min(f.group(), f.k - g * f.group()));
        store_grid(m, row, g,
                   fit_weighted({weight + row * f.k + first, count}, {cost.data() + first, count}, f, unit));
      }
    }
  });
}

Quantized rounded(std::span<const float> weight, const InputStatistics& input, const MethodOptions& options,
                  ThreadPool& pool, std::string reason) {
  Quantized out = quantize_rtn(weight, input, options, pool);
  out.note = std::move(reason);
  out.fell_back = true;
  return out;
}

}  // namespace

QuantizedMatrix gptq_loop(std::vector<float> weight, const std::vector<float>& u,
                          std::span<const int64_t> order, const PackedFormat& format, ThreadPool& pool) {
  const int64_t n = format.n, k = format.k;
  QuantizedMatrix m(format);
  std::vector<float> cost(static_cast<size_t>(k));
  const std::vector<float> units = row_units(weight, format);
  bool natural = true;
  for (int64_t i = 0; i < k; ++i) {
    const int64_t column = order[static_cast<size_t>(i)];
    natural = natural && column == i;
    const float d = u[static_cast<size_t>(i * k + i)];
    cost[static_cast<size_t>(column)] = 1.0f / (d * d);
  }
  if (!natural) {
    fit_all(m, weight.data(), cost, units, pool);
    std::vector<float> sorted(weight.size());
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t i = 0; i < k; ++i)
        sorted[static_cast<size_t>(r * k + i)] =
            weight[static_cast<size_t>(r * k + order[static_cast<size_t>(i)])];
    }
    weight.swap(sorted);
  }
  const int64_t block = block_columns(format), group = format.group();
  std::vector<float> errors(static_cast<size_t>(n * std::min(block, k)));
  const KernelTable& kernel = kernels();
  for (int64_t begin = 0; begin < k; begin += block) {
    const int64_t end = std::min(k, begin + block), width = end - begin;
    pool.parallel_for(static_cast<size_t>(n), 1, [&](size_t row_begin, size_t row_end, int) {
      for (int64_t row = static_cast<int64_t>(row_begin); row < static_cast<int64_t>(row_end); ++row) {
        float* w = weight.data() + row * k;
        float* error = errors.data() + row * width;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t column = order[static_cast<size_t>(i)], g = column / group;
          if (natural && column % group == 0) {
            const size_t count = static_cast<size_t>(std::min(group, k - column));
            store_grid(m, row, g,
                       fit_weighted({w + i, count}, {cost.data() + column, count}, format,
                                    units[static_cast<size_t>(row)]));
          }
          const size_t at = static_cast<size_t>(row * format.groups() + g);
          const Grid grid{m.scales[at], m.zeros[at]};
          const int code = grid.code(w[i], format.max_code());
          m.codes[static_cast<size_t>(row * k + column)] = static_cast<uint8_t>(code);
          const float* next = u.data() + i * k;
          error[i - begin] = (w[i] - grid.value(code)) / next[i];
          kernel.axpy(w + i + 1, -error[i - begin], next + i + 1, end - i - 1);
        }
      }
    });
    if (end < k) {
      subtract_product(errors.data(), width, u.data() + begin * k + end, k, weight.data() + end, k, n,
                       k - end, width, pool);
    }
  }
  return m;
}

Quantized quantize_gptq(std::span<const float> weight, const InputStatistics& input,
                        const MethodOptions& options, ThreadPool& pool) {
  const PackedFormat& f = options.format;
  if (!input.finite) return rounded(weight, input, options, pool, "NaN or infinite activations: rounded");
  if (static_cast<double>(input.tokens) < kLeastTokensPerInput * static_cast<double>(f.k) ||
      input.tokens == 0)
    return rounded(weight, input, options, pool,
                   fmt::format("only {} calibration tokens for {} inputs: rounded", input.tokens, f.k));
  const auto inverse = inverse_hessian(input, options.damp, options.act_order, pool);
  if (inverse->factor.empty())
    return rounded(
        weight, input, options, pool,
        fmt::format("the Hessian could not be inverted with damping up to {}: rounded", kLargestDamp));
  std::vector<float> start(weight.begin(), weight.end());
  std::string note;
  if (inverse->dead > 0) {
    note = fmt::format("{} of {} inputs never active: their weights are 0", inverse->dead, f.k);
    for (int64_t i = 0; i < f.k; ++i) {
      if (input.gram[static_cast<size_t>(i * f.k + i)] != 0) continue;
      for (int64_t row = 0; row < f.n; ++row) start[static_cast<size_t>(row * f.k + i)] = 0;
    }
  }
  if (inverse->damp != options.damp)
    note += fmt::format("{}the Hessian needed damping {:.3g} instead of {:.3g}", note.empty() ? "" : "; ",
                        inverse->damp, options.damp);
  QuantizedMatrix matrix = input.card ? input.card->loop(start, inverse->factor, inverse->order, f)
                                      : gptq_loop(start, inverse->factor, inverse->order, f, pool);
  if (options.refine && input.card) {
    input.card->refine(start, input, inverse->damp, kSweeps, matrix);
  } else if (options.refine) {
    refine_codes(start, input, inverse->damp, kSweeps, matrix, pool);
  }
  return {std::move(matrix), inverse->damp, note, false};
}

}  // namespace nibble
