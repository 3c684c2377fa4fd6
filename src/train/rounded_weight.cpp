#include "train/rounded_weight.h"

#include <algorithm>
#include <vector>

#include "kernels/bf16_rows.h"

namespace nibble {
namespace {

constexpr int64_t kRows = 32;           // of a weight that a task rounds
constexpr int64_t kKernelColumns = 16;  // dense_bf16_bf16 begins at a multiple

// y[m, n] = x[m, k]·wᵀ of w [n, k]
void product(const KernelTable& table, const uint16_t* w, int64_t n, int64_t k, const float* x, int64_t m,
             const float* bias, float* y, AlignedBuffer<uint16_t>& room, ThreadPool& pool) {
  const size_t values = static_cast<size_t>(bf16_values(table, m, k));
  if (room.size() < values) room = AlignedBuffer<uint16_t>(values);
  pool.parallel_for(static_cast<size_t>(m), 4, [&](size_t begin, size_t end, int) {
    to_bf16_rows(table, x, k, static_cast<int64_t>(begin), static_cast<int64_t>(end), room.data());
  });
  const int64_t columns = (n + kKernelColumns - 1) / kKernelColumns;
  pool.parallel_for(static_cast<size_t>(columns), 1, [&](size_t begin, size_t end, int) {
    table.dense_bf16_bf16({DType::kBF16, w, n, k}, room.data(), bias, y, n, m,
                          static_cast<int64_t>(begin) * kKernelColumns,
                          std::min(n, static_cast<int64_t>(end) * kKernelColumns));
  });
}

}  // namespace

RoundedWeight::RoundedWeight(const TrainedLinear& linear, const KernelTable& table, ThreadPool& pool)
    : table_(&table),
      n_(linear.n()),
      k_(linear.k()),
      rows_(static_cast<size_t>(n_ * k_)),
      columns_(static_cast<size_t>(n_ * k_)) {
  NIBBLE_CHECK(table.dense_bf16_bf16);
  pool.parallel_each(static_cast<size_t>((n_ + kRows - 1) / kRows), [&](size_t piece, int) {
    const int64_t first = static_cast<int64_t>(piece) * kRows, count = std::min(kRows, n_ - first);
    std::vector<float> values(static_cast<size_t>(count * k_));
    linear.rows(first, count, values.data());
    uint16_t* rounded = rows_.data() + first * k_;
    table.to_bf16(values.data(), rounded, count * k_);
    for (int64_t c = 0; c < k_; ++c) {
      for (int64_t r = 0; r < count; ++r) columns_.data()[c * n_ + first + r] = rounded[r * k_ + c];
    }
  });
}

void RoundedWeight::forward(const float* x, int64_t m, const float* bias, float* y,
                            AlignedBuffer<uint16_t>& room, ThreadPool& pool) const {
  product(*table_, rows_.data(), n_, k_, x, m, bias, y, room, pool);
}

void RoundedWeight::backward(const float* dy, int64_t m, float* dx, AlignedBuffer<uint16_t>& room,
                             ThreadPool& pool) const {
  product(*table_, columns_.data(), k_, n_, dy, m, nullptr, dx, room, pool);
}

}  // namespace nibble
