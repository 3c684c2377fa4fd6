// Attention against float64 loops: in floats with every table, by tiles with those that have them.
#include "model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/cpu/played_tiles_avx2.h"
#include "random_matrices.h"

namespace nibble {
namespace {

constexpr float kKeyOffset = 100;  // of one input of every key, as a bias of Qwen's makes it

struct Case {
  int head_dim, repeats, queries, first_position;
};

// Keys, values and queries of a case, and what attention makes of them.
struct Example {
  explicit Example(const Case& c, const KernelTable& table)
      : shape(c),
        positions(c.first_position + c.queries),
        stride(int64_t{c.repeats} * c.head_dim + 3),
        q(normals(static_cast<size_t>(c.queries * stride), 1,
                  1 / std::sqrt(static_cast<float>(c.head_dim)))) {
    const size_t n = static_cast<size_t>(positions) * static_cast<size_t>(c.head_dim);
    std::vector<float> exact = normals(n, 2);
    for (size_t i = 3; i < n; i += static_cast<size_t>(c.head_dim)) exact[i] += kKeyOffset;
    const auto halves = [&](const std::vector<float>& x) {
      std::vector<uint16_t> half(n);
      table.to_f16(x.data(), half.data(), static_cast<int64_t>(n));
      return half;
    };
    keys = halves(exact), values = halves(normals(n, 3));
  }

  // Of queries [first, first + count).
  std::vector<float> attend(const KernelTable& table, bool by_tiles, int first, int count) const {
    const auto rows = [&](const std::vector<uint16_t>& x) {
      return CachedRows{CacheType::kF16, reinterpret_cast<const std::byte*>(x.data()), shape.head_dim};
    };
    std::vector<float> out(static_cast<size_t>(count * stride), -7);
    AlignedBuffer<float> scratch(attention_scratch(shape.head_dim, shape.repeats, by_tiles));
    std::fill_n(scratch.data(), scratch.size(), std::nanf(""));
    nibble::attend(table,
                   {.q = q.data() + first * stride,
                    .out = out.data(),
                    .stride = stride,
                    .keys = rows(keys),
                    .values = rows(values),
                    .first_position = shape.first_position + first,
                    .queries = count,
                    .repeats = shape.repeats,
                    .head_dim = shape.head_dim,
                    .by_tiles = by_tiles},
                   scratch.data());
    return out;
  }

  double key(int position, int d) const { return double{fp16_to_float(keys[at(position, d)])}; }
  double value(int position, int d) const { return double{fp16_to_float(values[at(position, d)])}; }
  size_t at(int position, int d) const {
    return static_cast<size_t>(position) * static_cast<size_t>(shape.head_dim) + static_cast<size_t>(d);
  }

  Case shape;
  int positions;
  int64_t stride;
  std::vector<float> q;
  std::vector<uint16_t> keys, values;
};

class Attention : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    table_ = table_with_tiles(GetParam());
    if (!table_) GTEST_SKIP() << "this processor has no " << GetParam();
    if (table_->attend_tiles) ways_.push_back(true);
  }
  const KernelTable* table_ = nullptr;
  std::vector<bool> ways_{false};  // by tiles or not
};

const Case kCases[] = {{64, 7, 32, 100}, {64, 1, 1, 0},  {40, 3, 5, 63},  {128, 2, 17, 60},
                       {80, 1, 32, 64},  {8, 4, 32, 31}, {33, 1, 9, 130}, {64, 3, 32, 0}};

TEST_P(Attention, MatchesFloat64) {
  for (const Case& c : kCases) {
    const Example example(c, *table_);
    for (const bool by_tiles : ways_) {
      const auto out = example.attend(*table_, by_tiles, 0, c.queries);
      for (int i = 0; i < c.queries; ++i) {
        for (int r = 0; r < c.repeats; ++r) {
          const int64_t from = i * example.stride + r * c.head_dim;
          const int seen = c.first_position + i + 1;
          std::vector<double> weights(static_cast<size_t>(seen));
          double top = -1e30, total = 0, largest = 0;  // of what a score sums
          for (int p = 0; p < seen; ++p) {
            double score = 0, size = 0;
            for (int d = 0; d < c.head_dim; ++d) {
              const double product = double{example.q[static_cast<size_t>(from + d)]} * example.key(p, d);
              score += product, size += std::fabs(product);
            }
            weights[static_cast<size_t>(p)] = score;
            top = std::max(top, score), largest = std::max(largest, size);
          }
          for (double& w : weights) total += w = std::exp(w - top);
          for (int d = 0; d < c.head_dim; ++d) {
            double sum = 0, size = 0;
            for (int p = 0; p < seen; ++p) {
              const double product = weights[static_cast<size_t>(p)] / total * example.value(p, d);
              sum += product, size += std::fabs(product);
            }
            // A score's error changes its weight by as much; then both factors are rounded.
            const double bound = by_tiles ? 4 * 0x1p-16 * largest + 0x1p-8 : 4 * 0x1p-22 * largest + 0x1p-18;
            ASSERT_NEAR(out[static_cast<size_t>(from + d)], sum, bound * size)
                << (by_tiles ? "by tiles" : "in floats") << ", head_dim " << c.head_dim << ", repeats "
                << c.repeats << ", position " << seen - 1;
          }
        }
      }
      // Nothing between the queries is touched.
      for (int i = 0; i < c.queries; ++i) {
        for (int64_t d = int64_t{c.repeats} * c.head_dim; d < example.stride; ++d)
          ASSERT_EQ(out[static_cast<size_t>(i * example.stride + d)], -7);
      }
    }
  }
}

TEST_P(Attention, OfAQueryDoesNotDependOnTheOthers) {
  for (const Case& c : kCases) {
    const Example example(c, *table_);
    for (const bool by_tiles : ways_) {
      const auto all = example.attend(*table_, by_tiles, 0, c.queries);
      for (int i = 0; i < c.queries; i += 3) {
        const auto one = example.attend(*table_, by_tiles, i, 1);
        ASSERT_EQ(0, std::memcmp(one.data(), all.data() + i * example.stride, one.size() * sizeof(float)))
            << (by_tiles ? "by tiles" : "in floats") << ", head_dim " << c.head_dim << ", query " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Attention,
                         ::testing::Values("ref", "avx2", "avxvnni", "avx512", "amx", "played"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace nibble
