// Attention of the card against plain softmax, and how it reads logits. Skips where no card can be used.
#include "kernels/cuda/ops_fixture.h"

namespace nibble::cuda {
namespace {

// A cache filled position by position, against plain softmax in float64.
TEST_F(CudaOps, AttentionMatchesFloat64) {
  struct Shape {
    int heads, kv_heads, dim, rope_dims;
  };
  for (const Shape& s : {Shape{8, 4, 32, 32},
                         {7, 1, 32, 16},
                         {6, 6, 64, 32},
                         {32, 8, 64, 64},
                         {14, 2, 64, 64},
                         {4, 2, 80, 80},
                         {4, 4, 6, 4},
                         {12, 1, 128, 128},
                         {2, 1, 256, 256},
                         {2, 1, 300, 64}}) {
    for (const CacheKind kind : {CacheKind::kF16, CacheKind::kF32, CacheKind::kI8}) {
      const int context = 700, slots = 2;
      const int width = (s.heads + 2 * s.kv_heads) * s.dim, half = s.rope_dims / 2;
      std::vector<float> rope;
      for (int p = 0; p < context; ++p) {
        for (int j = 0; j < half; ++j) {
          const double f = std::pow(10000.0, -2.0 * j / s.rope_dims);
          rope.push_back(static_cast<float>(std::cos(p * f)));
          rope.push_back(static_cast<float>(std::sin(p * f)));
        }
      }
      const Heads heads{s.heads, s.kv_heads, s.dim, s.rope_dims, up(rope)};
      const size_t cells = count(slots * s.kv_heads * context);
      Cache cache{kind, nullptr, nullptr, nullptr, nullptr, context};
      for (void** to : {&cache.keys, &cache.values}) {
        memory_.emplace_back(cells * count(s.dim) * 4);
        *to = memory_.back().as<void>();
      }
      for (float** to : {&cache.key_scales, &cache.value_scales}) {
        memory_.emplace_back(cells * 4);
        *to = memory_.back().as<float>();
      }
      // 601 positions of slot 1 and 40 of slot 0 as one batch, then a step of both.
      const int first = 601, second = 40, rows = first + second;
      std::vector<int32_t> positions, of_slot;
      for (int i = 0; i < rows; ++i) {
        positions.push_back(i < first ? i : i - first);
        of_slot.push_back(i < first ? 1 : 0);
      }
      const auto qkv = normals(count(rows * width), 1), last = normals(count(2 * width), 2);
      const int64_t ld = input_stride(s.heads * s.dim);
      memory_.emplace_back(count(rows * 2 * ld) * 2);
      void* out = memory_.back().as<void>();
      const DeviceMemory partial(attention_scratch(heads, 2, 5));
      Attention call;
      float* on_card = up(qkv);
      call.qkv = on_card;
      call.heads = heads;
      call.places = {up(positions), up(of_slot), rows};
      call.cache = cache;
      call.out = out;
      call.ld = ld;
      call.parts = 2;
      call.partial = partial.as<float>();
      rope_and_store(*queue_, on_card, heads, call.places, cache);
      attention(*queue_, call, false);
      const auto together = down_parts(out, rows, s.heads * s.dim, 2, ld);

      // Head `head` of a row, rotated to its position.
      const auto rotated = [&](const float* row, int head, int position) {
        std::vector<double> x(row + head * s.dim, row + (head + 1) * s.dim);
        for (int j = 0; j < half; ++j) {
          const double cos = rope[count((position * half + j) * 2)],
                       sin = rope[count((position * half + j) * 2 + 1)];
          const double a = x[count(j)], b = x[count(j + half)];
          x[count(j)] = a * cos - b * sin;
          x[count(j + half)] = b * cos + a * sin;
        }
        return x;
      };
      const auto expect_row = [&](const float* query, int slot, int position, const float* got,
                                  double tolerance, const std::string& what) {
        const int from = slot == 1 ? 0 : first, known = slot == 1 ? first : second;
        const auto row_at = [&](int p) {
          return p < known ? qkv.data() + (from + p) * width : last.data() + (1 - slot) * width;
        };
        for (const int head : {0, s.heads - 1}) {
          const int kv = head / (s.heads / s.kv_heads);
          const auto q = rotated(query, head, position);
          std::vector<double> weights;
          double top = -1e30, total = 0;
          for (int p = 0; p <= position; ++p) {
            const auto k = rotated(row_at(p), s.heads + kv, p);
            double score = 0;
            for (int i = 0; i < s.dim; ++i) score += q[count(i)] * k[count(i)];
            weights.push_back(score / std::sqrt(s.dim));
            top = std::max(top, weights.back());
          }
          for (double& w : weights) total += w = std::exp(w - top);
          for (int i = 0; i < s.dim; ++i) {
            double sum = 0;
            for (int p = 0; p <= position; ++p)
              sum += weights[count(p)] * double{row_at(p)[(s.heads + s.kv_heads + kv) * s.dim + i]};
            ASSERT_NEAR(got[head * s.dim + i], sum / total, tolerance)
                << what << " head " << head << " of " << s.heads;
          }
        }
      };
      const double tolerance = kind == CacheKind::kF32 ? 2e-5 : kind == CacheKind::kF16 ? 4e-3 : 6e-2;
      const std::string what = fmt::format("dim {} kind {}", s.dim, static_cast<int>(kind));
      for (const int row : {0, 1, 63, 64, 300, 600, 601, 640}) {
        expect_row(qkv.data() + row * width, row < first ? 1 : 0, positions[count(row)],
                   together.data() + row * s.heads * s.dim, tolerance, fmt::format("{} row {}", what, row));
        if (HasFatalFailure()) return;
      }
      for (const int splits : {1, 2, 5}) {
        call.few_keys = splits == 2;  // fewer threads, which hold no more keys at a time
        for (const bool rope_inside : {false, true}) {
          if (rope_inside && kind != CacheKind::kF16) continue;
          float* step = up(last);
          call.qkv = step;
          call.places = {up(std::vector<int32_t>{first, second}), up(std::vector<int32_t>{1, 0}), 2};
          call.splits = splits;
          call.rope = rope_inside;
          if (!rope_inside) rope_and_store(*queue_, step, heads, call.places, cache);
          attention(*queue_, call, false);
          const auto got = down_parts(out, 2, s.heads * s.dim, 2, ld);
          for (const int row : {0, 1}) {
            expect_row(last.data() + row * width, 1 - row, row == 0 ? first : second,
                       got.data() + row * s.heads * s.dim, tolerance,
                       fmt::format("{} step {} splits {} rope {}", what, row, splits, rope_inside));
            if (HasFatalFailure()) return;
          }
        }
      }
      forget();
    }
  }
}

TEST_F(CudaOps, LogitsAreReadAsTheProcessorDoes) {
  for (const int64_t vocab : {1, 5, 1000, 70001}) {
    const int rows = 3;
    auto logits = normals(count(rows * vocab), 1, 5.0f);
    if (vocab > 5) {
      logits[count(vocab + 700)] = logits[count(vocab + 3)] = 60.0f;  // equals: the lower index
      std::fill(logits.begin() + 2 * vocab, logits.end(), std::nanf(""));
    }
    const float* on_card = up(logits);
    uint64_t* keys = up(std::vector<uint64_t>(3));
    int32_t* best = up(std::vector<int32_t>(3, -1));
    for (int repeat = 0; repeat < 2; ++repeat) {
      argmax(*queue_, on_card, vocab, rows, keys, false);
      best_of(*queue_, keys, rows, best);
      const auto found = down<int32_t>(best, 3);
      for (int r = 0; r < rows; ++r) {
        const float* row = logits.data() + r * vocab;
        const auto expected = std::isnan(row[0]) ? 0 : std::max_element(row, row + vocab) - row;
        EXPECT_EQ(found[count(r)], expected) << "vocab " << vocab << " row " << r;
      }
    }
    const int32_t last = static_cast<int32_t>(vocab) - 1;
    const std::vector<Question> questions = {
        {0, 0}, {0, last}, {1, std::min(3, last)}, {1, std::min(700, last)}, {2, 0}};
    Answer* answers = up(std::vector<Answer>(questions.size()));
    score(*queue_, on_card, vocab, up(questions), static_cast<int>(questions.size()), answers);
    const auto scored = down<Answer>(answers, questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
      const float* row = logits.data() + questions[i].row * vocab;
      const float top = std::isnan(row[0]) ? 0 : *std::max_element(row, row + vocab);
      EXPECT_EQ(scored[i].is_broken != 0, std::isnan(row[0])) << "vocab " << vocab << " question " << i;
      if (std::isnan(row[0])) continue;
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(double{row[v]} - double{top});
      EXPECT_NEAR(scored[i].loglik, double{row[questions[i].token]} - double{top} - std::log(sum), 1e-5);
      EXPECT_EQ(scored[i].is_greedy != 0, std::find(row, row + vocab, top) == row + questions[i].token)
          << "vocab " << vocab << " question " << i;
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
