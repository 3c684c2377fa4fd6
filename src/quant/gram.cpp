#include "quant/gram.h"

#include <algorithm>
#include <cmath>

#include "quant/grid.h"
#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int64_t kPieceRows = 512;
constexpr int64_t kBlockPanels = 16;
constexpr int64_t kWaitingSteps = 32;  // of bf16 until their products are added
constexpr int64_t kBlockTiles = 8;     // panels of bf16 in a task: with them in the second-level cache
constexpr float kFarAway = 128;        // times a column's mean |x|: its tokens then keep 16 steps

int64_t panels_of(int64_t k) { return (k + kGramTile - 1) / kGramTile; }

}  // namespace

GramSum::GramSum(int64_t k, ThreadPool& pool, const KernelTable& kernels)
    : k_(k),
      pool_(pool),
      kernels_(kernels),
      gram_(static_cast<size_t>(k * k)),
      mean_(static_cast<size_t>(k)),
      step_(static_cast<size_t>(k)) {
  if (kernels.gram_bf16)
    panels_ = AlignedBuffer<uint16_t>(static_cast<size_t>(panels_of(k) * kWaitingSteps * kGramStep));
}

void GramSum::add(const float* x, int64_t rows) {
  if (panels_.size() > 0) return add_bf16(x, rows);
  for (int64_t first = 0; first < rows; first += kPieceRows)
    add_piece(x + first * k_, std::min(kPieceRows, rows - first));
}

void GramSum::add_bf16(const float* x, int64_t rows) {
  for (int64_t first = 0; first < rows;) {
    const int64_t steps = std::min(kWaitingSteps - steps_, (rows - first + kGramTile - 1) / kGramTile);
    pool_.parallel_each(static_cast<size_t>(steps), [&](size_t step, int) {
      const int64_t row = first + static_cast<int64_t>(step) * kGramTile;
      for (int64_t panel = 0; panel < panels_of(k_); ++panel)
        kernels_.gram_step(x + row * k_ + panel * kGramTile, k_, std::min<int64_t>(kGramTile, rows - row),
                           std::min<int64_t>(kGramTile, k_ - panel * kGramTile),
                           panels_.data() + panel * kWaitingSteps * kGramStep,
                           steps_ + static_cast<int64_t>(step), kWaitingSteps);
    });
    first += steps * kGramTile;
    steps_ += steps;
    if (steps_ == kWaitingSteps) sum_steps();
  }
}

void GramSum::sum_steps() {
  const int64_t panels = panels_of(k_), blocks = (panels + kBlockTiles - 1) / kBlockTiles;
  pool_.parallel_each(static_cast<size_t>(blocks * blocks), [&](size_t task, int) {
    const int64_t above = static_cast<int64_t>(task) / blocks * kBlockTiles;
    const int64_t beside = static_cast<int64_t>(task) % blocks * kBlockTiles;
    for (int64_t i = above; i < std::min(panels, above + kBlockTiles); ++i) {
      for (int64_t j = std::max(i, beside); j < std::min(panels, beside + kBlockTiles); ++j) {
        const auto panel = [&](int64_t p) { return panels_.data() + p * kWaitingSteps * kGramStep; };
        const int64_t row = i * kGramTile, column = j * kGramTile;
        kernels_.gram_bf16(panel(i), panel(j), kWaitingSteps, steps_, gram_.data() + row * k_ + column, k_,
                           std::min<int64_t>(kGramTile, k_ - row), std::min<int64_t>(kGramTile, k_ - column));
      }
    }
  });
  steps_ = 0;
}

void GramSum::add_piece(const float* x, int64_t rows) {
  const size_t width = static_cast<size_t>(k_);
  pool_.parallel_for(width, 64, [&](size_t begin, size_t end, int) {
    std::fill(mean_.begin() + static_cast<std::ptrdiff_t>(begin),
              mean_.begin() + static_cast<std::ptrdiff_t>(end), 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = x + r * k_;
      for (size_t i = begin; i < end; ++i) mean_[i] += std::fabs(row[i]);
    }
    for (size_t i = begin; i < end; ++i) mean_[i] /= static_cast<float>(rows);
  });
  if (!std::all_of(mean_.begin(), mean_.end(), [](float m) { return std::isfinite(m); }))
    return add_gram(x, rows, k_, gram_, pool_);
  std::vector<uint8_t> apart(static_cast<size_t>(rows));
  pool_.parallel_for(apart.size(), 1, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      const float* row = x + r * width;
      int far = 0;
      for (size_t i = 0; i < width; ++i) far |= std::fabs(row[i]) > kFarAway * mean_[i];
      apart[r] = far != 0;
    }
  });
  apart_rows_.clear();
  for (size_t r = 0; r < apart.size(); ++r) {
    if (apart[r]) apart_rows_.insert(apart_rows_.end(), x + r * width, x + (r + 1) * width);
  }
  const int64_t alone = static_cast<int64_t>(apart_rows_.size() / width);
  if (alone > rows / 4) return add_gram(x, rows, k_, gram_, pool_);
  if (alone > 0) add_gram(apart_rows_.data(), alone, k_, gram_, pool_);
  add_integers(x, rows, apart);
}

void GramSum::add_integers(const float* x, int64_t rows, const std::vector<uint8_t>& apart) {
  const int64_t panels = (k_ + kGramPanel - 1) / kGramPanel;
  const int64_t pairs = (rows + 1) / 2, panel_size = pairs * kGramPanel * 2;
  // Sums of `rows` products of at most limit² stay within int32.
  const float limit =
      std::min(32767.0f, std::floor(std::sqrt(2147483000.0f / static_cast<float>(rows + rows % 2))));
  columns_.resize(static_cast<size_t>(panels * panel_size));
  pool_.parallel_for(static_cast<size_t>(panels), 1, [&](size_t begin, size_t end, int) {
    for (int64_t panel = static_cast<int64_t>(begin); panel < static_cast<int64_t>(end); ++panel) {
      const int64_t first = panel * kGramPanel, count = std::min<int64_t>(kGramPanel, k_ - first);
      float largest[kGramPanel] = {}, per_value[kGramPanel] = {};
      for (int64_t r = 0; r < rows; ++r) {
        if (apart[static_cast<size_t>(r)]) continue;
        for (int64_t c = 0; c < count; ++c)
          largest[c] = std::max(largest[c], std::fabs(x[r * k_ + first + c]));
      }
      for (int64_t c = 0; c < count; ++c) {
        per_value[c] = largest[c] > 0 ? limit / largest[c] : 0;
        if (!std::isfinite(per_value[c])) per_value[c] = 0;  // subnormal columns: nothing
        step_[static_cast<size_t>(first + c)] = per_value[c] > 0 ? largest[c] / limit : 0;
      }
      for (int64_t r = 0; r < 2 * pairs; ++r) {
        int16_t* out = columns_.data() + panel * panel_size + r / 2 * kGramPanel * 2 + r % 2;
        const bool there = r < rows && !apart[static_cast<size_t>(r)];
        float values[kGramPanel] = {};
        if (there) std::copy_n(x + r * k_ + first, count, values);
        for (int c = 0; c < kGramPanel; ++c)
          out[c * 2] = static_cast<int16_t>(static_cast<int32_t>(nearest_integer(values[c] * per_value[c])));
      }
    }
  });
  // Tasks are squares of panels, so that what they read stays in the second-level cache.
  const int64_t blocks = (panels + kBlockPanels - 1) / kBlockPanels;
  pool_.parallel_each(static_cast<size_t>(blocks * blocks), [&](size_t task, int) {
    const int64_t above = static_cast<int64_t>(task) / blocks * kBlockPanels;
    const int64_t beside = static_cast<int64_t>(task) % blocks * kBlockPanels;
    alignas(64) int32_t sums[kBlockPanels * kGramPanel * kGramPanel];
    for (int64_t panel = above; panel < std::min(panels, above + kBlockPanels); ++panel) {
      const int64_t first = std::max(panel, beside), count = std::min(panels, beside + kBlockPanels) - first;
      if (count <= 0) continue;
      kernels_.products_i16(columns_.data() + panel * panel_size, columns_.data() + first * panel_size, count,
                            pairs, sums);
      for (int64_t p = 0; p < count; ++p) add_tile(panel, first + p, sums + p * kGramPanel * kGramPanel);
    }
  });
}

void GramSum::add_tile(int64_t above, int64_t beside, const int32_t* sums) {
  const int64_t i = above * kGramPanel, j = beside * kGramPanel;
  const int64_t height = std::min<int64_t>(kGramPanel, k_ - i), width = std::min<int64_t>(kGramPanel, k_ - j);
  for (int64_t r = 0; r < height; ++r) {
    const float scale = step_[static_cast<size_t>(i + r)];
    float* to = gram_.data() + (i + r) * k_ + j;
    for (int64_t c = 0; c < width; ++c)
      to[c] += scale * step_[static_cast<size_t>(j + c)] * static_cast<float>(sums[r * kGramPanel + c]);
  }
}

std::vector<float> GramSum::take() {
  if (steps_ > 0) sum_steps();
  mirror_upper(gram_, k_);
  return std::move(gram_);
}

}  // namespace nibble
