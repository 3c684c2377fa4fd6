// Every operation of the card against float64 loops, on odd shapes. Skips where no card can be used.
#include "kernels/cuda/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tensor/dtype.h"
#include "tensor/packed.h"

namespace nibble::cuda {
namespace {

std::vector<float> normals(size_t n, uint64_t seed, float scale = 1) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& v : values) {
    const double u = random.uniform() + 1e-12, w = random.uniform();
    v = scale * static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * w));
  }
  return values;
}

size_t count(int64_t n) { return static_cast<size_t>(n); }

class CudaOps : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!problem().empty()) GTEST_SKIP() << problem();
    queue_.emplace();
  }
  template <typename T>
  T* up(const std::vector<T>& values) {
    memory_.emplace_back(std::max<size_t>(values.size() * sizeof(T), 16));
    queue_->to_device(memory_.back().as<void>(), values.data(), values.size() * sizeof(T));
    queue_->wait();
    return memory_.back().as<T>();
  }
  // Poisoned, so that what is not written shows.
  float* poisoned(size_t n) { return up(std::vector<float>(n, std::nanf(""))); }
  template <typename T>
  std::vector<T> down(const void* from, size_t n) {
    std::vector<T> values(n);
    queue_->to_host(values.data(), from, n * sizeof(T));
    queue_->wait();
    return values;
  }
  // [rows, parts, ld] of x [rows, k]; what the parts add up to takes x's place.
  uint16_t* up_parts(std::vector<float>& x, int rows, int k, int parts) {
    const int64_t ld = input_stride(k);
    std::vector<uint16_t> all(count(rows * parts * ld));
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < k; ++i) {
        float rest = x[count(r * k + i)], sum = 0;
        for (int p = 0; p < parts; ++p) {
          const uint16_t part = float_to_bf16(rest);
          all[count((r * parts + p) * ld + i)] = part;
          rest -= bf16_to_float(part);
          sum += bf16_to_float(part);
        }
        x[count(r * k + i)] = sum;
      }
    }
    return up(all);
  }
  // Of parts on the card: their sum.
  std::vector<float> down_parts(const void* from, int rows, int n, int parts, int64_t ld) {
    const auto all = down<uint16_t>(from, count(rows * parts * ld));
    std::vector<float> x(count(rows * n));
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        for (int p = parts - 1; p >= 0; --p)
          x[count(r * n + i)] += bf16_to_float(all[count((r * parts + p) * ld + i)]);
      }
    }
    return x;
  }

  // A weight on the card and what it stands for.
  struct Made {
    Weight weight;
    std::vector<float> values;  // [n, k]
  };
  Made dense(WeightKind kind, int n, int k, uint64_t seed) {
    Made made;
    made.values = normals(count(n * k), seed, 0.05f);
    Weight& w = made.weight;
    w.kind = kind;
    w.n = n;
    w.k = k;
    w.stride = round_up(k, 8);
    std::vector<uint16_t> half(count(n * w.stride));
    std::vector<float> full(count(n * w.stride));
    for (int r = 0; r < n; ++r) {
      for (int i = 0; i < k; ++i) {
        float& v = made.values[count(r * k + i)];
        const uint16_t bits = kind == WeightKind::kBf16 ? float_to_bf16(v) : float_to_fp16(v);
        half[count(r * w.stride + i)] = bits;
        if (kind == WeightKind::kBf16) v = bf16_to_float(bits);
        if (kind == WeightKind::kF16) v = fp16_to_float(bits);
        full[count(r * w.stride + i)] = v;
      }
    }
    w.data = kind == WeightKind::kF32 ? static_cast<const void*>(up(full)) : up(half);
    return made;
  }
  Made packed(const PackedFormat& f, uint64_t seed) {
    QuantizedMatrix q(f);
    Random random(seed);
    for (auto& c : q.codes) c = static_cast<uint8_t>(random.below(count(f.max_code()) + 1));
    const auto scales = normals(q.scales.size(), seed + 1, 0.01f);
    for (size_t i = 0; i < scales.size(); ++i)
      q.scales[i] = f.float_scales ? scales[i] : fp16_to_float(float_to_fp16(scales[i]));
    if (!f.symmetric)
      for (auto& z : q.zeros) z = static_cast<uint8_t>(random.below(count(f.max_zero()) + 1));
    const PackedBuffers host = nibble::pack(q);
    Made made;
    for (int64_t r = 0; r < f.n; ++r) {
      for (int64_t i = 0; i < f.k; ++i) made.values.push_back(q.value(r, i));
    }
    Weight& w = made.weight;
    w.kind = f.bits <= 4 ? WeightKind::kQ4 : WeightKind::kQ8;
    w.n = static_cast<int>(f.n);
    w.k = static_cast<int>(f.k);
    w.group = static_cast<int>(f.group());
    w.middle = f.middle();
    w.float_scales = f.float_scales;
    w.wide_zeros = f.zero_bytes_per_group() == 16;
    const auto bytes = [&](const void* from, size_t n) {
      const uint8_t* p = static_cast<const uint8_t*>(from);
      return up(std::vector<uint8_t>(p, p + n));
    };
    memory_.emplace_back(tile_bytes(w.kind, w.n, w.k));
    void* tiles = memory_.back().as<void>();
    retile(*queue_, bytes(host.codes.data(), host.codes.bytes()), f.bits, w.n, w.k, tiles);
    w.data = tiles;
    const size_t scale_bytes = count(f.scale_count() * f.scale_bytes());
    memory_.emplace_back(scale_bytes);
    void* pairs = memory_.back().as<void>();
    pair_rows(*queue_,
              bytes(f.float_scales ? static_cast<const void*>(host.float_scales.data()) : host.scales.data(),
                    scale_bytes),
              pairs, f.panels() * f.groups(), f.scale_bytes());
    w.scales = pairs;
    if (!f.symmetric) {
      uint8_t* zeros = bytes(host.zeros.data(), host.zeros.bytes());
      w.zeros = zeros;
      if (w.wide_zeros) {
        memory_.emplace_back(host.zeros.bytes());
        pair_rows(*queue_, zeros, memory_.back().as<void>(), f.panels() * f.groups(), 1);
        w.zeros = memory_.back().as<uint8_t>();
      }
    }
    queue_->wait();
    return made;
  }

  // |y − reference| ≤ tolerance · Σ|products|.
  void expect_product(const std::vector<float>& y, const std::vector<float>& before,
                      const std::vector<float>& x, const Made& made, const std::vector<float>& bias, int rows,
                      double tolerance, const std::string& what) {
    const int n = made.weight.n, k = made.weight.k;
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < n; ++j) {
        double sum = before.empty() ? 0.0 : before[count(r * n + j)], size = std::fabs(sum);
        if (!bias.empty()) sum += bias[count(j)], size += std::fabs(bias[count(j)]);
        for (int i = 0; i < k; ++i) {
          const double p = double{x[count(r * k + i)]} * double{made.values[count(j * k + i)]};
          sum += p;
          size += std::fabs(p);
        }
        ASSERT_NEAR(y[count(r * n + j)], sum, tolerance * size + 1e-7)
            << what << " row " << r << " output " << j;
      }
    }
  }

  // Through Linears::run, which picks the way by rows.
  void check_linear(Made made, int rows, int parts, bool add, double tolerance, const std::string& what) {
    Weight& w = made.weight;
    auto x = normals(count(rows * w.k), 8);
    const auto bias = normals(count(w.n), 7);
    const auto before = add ? normals(count(rows * w.n), 9) : std::vector<float>();
    w.bias = up(bias);
    const void* input = up_parts(x, rows, w.k, parts);
    float* y = add ? up(before) : poisoned(count(rows * w.n));
    const DeviceMemory scratch(Linears::scratch_bytes(w, rows, parts));
    linears().run(*queue_, w, input, input_stride(w.k), rows, parts, add, y, w.n, scratch.as<void>(),
                  scratch.bytes());
    expect_product(down<float>(y, count(rows * w.n)), before, x, made, bias, rows, tolerance, what);
  }
  Linears& linears() {
    if (!linears_) linears_ = std::make_unique<Linears>();
    return *linears_;
  }
  void forget() { memory_.clear(); }

  std::optional<Queue> queue_;
  std::vector<DeviceMemory> memory_;
  std::unique_ptr<Linears> linears_;
};

TEST_F(CudaOps, DenseLinearsMatchFloat64) {
  for (const WeightKind kind : {WeightKind::kBf16, WeightKind::kF16, WeightKind::kF32}) {
    for (const auto& [n, k] :
         std::vector<std::pair<int, int>>{{1, 1}, {17, 100}, {33, 256}, {48, 600}, {200, 1111}}) {
      for (const int rows : {1, 2, 7, 8, 16, 33}) {
        for (const int parts : {1, 3}) {
          check_linear(
              dense(kind, n, k, 5), rows, parts, rows % 2 == 0, 2e-6,
              fmt::format("kind {} n {} k {} rows {} parts {}", static_cast<int>(kind), n, k, rows, parts));
          if (HasFatalFailure()) return;
          forget();
        }
      }
    }
  }
}

TEST_F(CudaOps, PackedLinearsMatchFloat64ForEveryFormat) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 64, 128, 0, 96}) {
      for (const bool symmetric : {false, true}) {
        for (const auto& [n, k] :
             std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 100}, {33, 256}, {8, 600}, {47, 400}}) {
          PackedFormat f{bits, group, symmetric, n, k};
          f.float_scales = n == 17 || n == 8;
          f.wide_zeros = f.float_scales && bits <= 4;
          const Made made = packed(f, count(bits * 1000 + group));
          for (const int rows : {1, 2, 7, 8, 33, 60}) {
            for (const int parts : {1, 3}) {
              // Many rows of one part: weights are rounded to bf16 for the matrix units.
              const double tolerance = rows == 60 && parts == 1 ? 5e-3 : 2e-6;
              check_linear(made, rows, parts, rows % 2 == 0, tolerance,
                           fmt::format("bits {} group {} symmetric {} n {} k {} rows {} parts {}", bits,
                                       group, symmetric, n, k, rows, parts));
              if (HasFatalFailure()) return;
            }
          }
          forget();
        }
      }
    }
  }
}

TEST_F(CudaOps, PackedColumnsInAnOrderOfTheirOwn) {
  const int n = 40, k = 320;
  std::vector<int32_t> order(count(k));
  for (int i = 0; i < k; ++i) order[count(i)] = (i * 37 + 11) % k;
  Made made = packed({4, 64, false, n, k}, 3);
  made.weight.order = up(order);
  Made straight = made;
  for (int r = 0; r < n; ++r) {
    for (int i = 0; i < k; ++i)
      straight.values[count(r * k + order[count(i)])] = made.values[count(r * k + i)];
  }
  for (const int rows : {1, 5, 60}) {
    check_linear(straight, rows, 1, false, rows == 60 ? 5e-3 : 2e-6, fmt::format("rows {}", rows));
    if (HasFatalFailure()) return;
  }
}

// Norm, several weights and what follows them, in one kernel.
TEST_F(CudaOps, FusedGemvMatchesFloat64) {
  for (const bool layer_norm : {false, true}) {
    for (const bool is_packed : {false, true}) {
      for (const auto& [rows, parts] :
           std::vector<std::pair<int, int>>{{1, 1}, {1, 3}, {3, 1}, {5, 3}, {16, 1}}) {
        const int k = 224, n1 = 37, n2 = 16, inner = 90;
        const auto make = [&](int n, uint64_t seed) {
          return is_packed ? packed({4, 32, false, n, k}, seed) : dense(WeightKind::kBf16, n, k, seed);
        };
        Made a = make(n1, 1), b = make(n2, 2), gate = make(inner, 3), upward = make(inner, 4);
        const auto bias = normals(count(n1), 5), gate_bias = normals(count(inner), 6);
        a.weight.bias = up(bias);
        gate.weight.bias = up(gate_bias);
        const auto h = normals(count(rows * k), 7, 3.0f), weight = normals(count(k), 8),
                   shift = normals(count(k), 9);
        // The norm in float64, rounded to what the kernel multiplies with.
        std::vector<float> x(h.size());
        for (int r = 0; r < rows; ++r) {
          double mean = 0, squares = 0;
          for (int i = 0; i < k; ++i) mean += h[count(r * k + i)];
          mean = layer_norm ? mean / k : 0;
          for (int i = 0; i < k; ++i) squares += std::pow(h[count(r * k + i)] - mean, 2);
          for (int i = 0; i < k; ++i)
            x[count(r * k + i)] = static_cast<float>((h[count(r * k + i)] - mean) /
                                                         std::sqrt(squares / k + 1e-5) * weight[count(i)] +
                                                     (layer_norm ? shift[count(i)] : 0.0f));
        }
        Gemv call;
        call.rows = rows;
        call.parts = parts;
        call.h = up(h);
        call.norm = {up(weight), layer_norm ? up(shift) : nullptr, 1e-5f};
        call.n_jobs = 3;
        float* y = poisoned(count(rows * (n1 + n2)));
        const int64_t ld = input_stride(inner);
        memory_.emplace_back(count(rows * parts * ld) * 2);
        void* activated = memory_.back().as<void>();
        call.jobs[0].weight = a.weight;
        call.jobs[1].weight = b.weight;
        call.jobs[0].y = y;
        call.jobs[1].y = y + n1;
        call.jobs[0].ldy = call.jobs[1].ldy = n1 + n2;
        call.jobs[2].weight = gate.weight;
        call.jobs[2].finish = Finish::kGelu;
        call.jobs[2].out = activated;
        call.jobs[2].ld_out = ld;
        gemv(*queue_, call, false);
        // One part rounds an input by up to 2⁻⁹ of itself, near ties either way.
        const double tolerance = parts == 1 ? 4e-3 : 3e-6, rounding = parts == 1 ? 8e-3 : 1e-5;
        const auto both = down<float>(y, count(rows * (n1 + n2)));
        std::vector<float> first, second;
        for (int r = 0; r < rows; ++r) {
          first.insert(first.end(), both.begin() + r * (n1 + n2), both.begin() + r * (n1 + n2) + n1);
          second.insert(second.end(), both.begin() + r * (n1 + n2) + n1, both.begin() + (r + 1) * (n1 + n2));
        }
        const std::string what =
            fmt::format("layer norm {} packed {} rows {} parts {}", layer_norm, is_packed, rows, parts);
        expect_product(first, {}, x, a, bias, rows, tolerance, what);
        expect_product(second, {}, x, b, {}, rows, tolerance, what);
        if (HasFatalFailure()) return;
        const auto product = [&](const Made& made, const std::vector<float>& with, int r, int j,
                                 double& size) {
          double sum = with.empty() ? 0 : with[count(j)];
          for (int i = 0; i < k; ++i) {
            const double p = double{x[count(r * k + i)]} * double{made.values[count(j * k + i)]};
            sum += p;
            size += std::fabs(p);
          }
          return sum;
        };
        const auto gelu_out = down_parts(activated, rows, inner, parts, ld);
        Gemv pair;
        pair.rows = rows;
        pair.parts = parts;
        pair.h = call.h;
        pair.norm = call.norm;
        pair.n_jobs = 1;
        pair.jobs[0] = call.jobs[2];
        pair.jobs[0].finish = Finish::kSwiGlu;
        pair.jobs[0].partner = upward.weight;
        gemv(*queue_, pair, false);
        const auto swiglu_out = down_parts(activated, rows, inner, parts, ld);
        for (int r = 0; r < rows; ++r) {
          for (int j = 0; j < inner; ++j) {
            double size = 0, other_size = 0;
            const double g = product(gate, gate_bias, r, j, size), u = product(upward, {}, r, j, other_size);
            const double gelu = 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)));
            ASSERT_NEAR(gelu_out[count(r * inner + j)], gelu,
                        2 * tolerance * size + rounding * std::fabs(gelu))
                << what;
            const double swiglu = g / (1 + std::exp(-g)) * u;
            ASSERT_NEAR(swiglu_out[count(r * inner + j)], swiglu,
                        2 * tolerance * (size * std::fabs(u) + other_size * (std::fabs(g) + 1)) +
                            rounding * std::fabs(swiglu))
                << what;
          }
        }
        forget();
      }
    }
  }
}

TEST_F(CudaOps, NormsAndActivationsMatchFloat64) {
  for (const int n : {1, 7, 192, 1111}) {
    const int rows = 5;
    const int64_t ld = input_stride(n);
    const auto h = normals(count(rows * n), 1, 4.0f), weight = normals(count(n), 2),
               shift = normals(count(n), 3);
    const auto pair = normals(count(rows * 2 * n), 4, 2.0f);
    memory_.emplace_back(count(rows * 3 * ld) * 2);
    void* out = memory_.back().as<void>();
    for (const bool layer_norm : {false, true}) {
      norm(*queue_, up(h), n, {up(weight), layer_norm ? up(shift) : nullptr, 1e-5f}, rows, 3, out, ld);
      const auto y = down_parts(out, rows, n, 3, ld);
      for (int r = 0; r < rows; ++r) {
        double mean = 0, squares = 0;
        for (int i = 0; i < n; ++i) mean += h[count(r * n + i)];
        mean = layer_norm ? mean / n : 0;
        for (int i = 0; i < n; ++i) squares += std::pow(h[count(r * n + i)] - mean, 2);
        for (int i = 0; i < n; ++i) {
          const double expected =
              (h[count(r * n + i)] - mean) / std::sqrt(squares / n + 1e-5) * weight[count(i)] +
              (layer_norm ? shift[count(i)] : 0.0f);
          ASSERT_NEAR(y[count(r * n + i)], expected, 2e-5 * (std::fabs(expected) + 1)) << "n " << n;
        }
      }
    }
    swiglu(*queue_, up(pair), n, rows, 3, out, ld);
    const auto gated = down_parts(out, rows, n, 3, ld);
    gelu(*queue_, up(h), n, rows, 3, out, ld);
    const auto smooth = down_parts(out, rows, n, 3, ld);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        const double g = pair[count(r * 2 * n + i)], u = pair[count(r * 2 * n + n + i)],
                     v = h[count(r * n + i)];
        ASSERT_NEAR(gated[count(r * n + i)], g / (1 + std::exp(-g)) * u, 1e-5 * (std::fabs(g * u) + 1));
        ASSERT_NEAR(smooth[count(r * n + i)],
                    0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v))),
                    1e-5 * (std::fabs(v) + 1));
      }
    }
    forget();
  }
}

TEST_F(CudaOps, EmbeddingsAreRowsOfTheWeight) {
  const std::vector<int32_t> tokens = {0, 16, 36, 9, 8};
  for (const int bits : {0, 4, 8, 3}) {
    const int n = 37, k = 100;
    const Made made = bits == 0 ? dense(WeightKind::kBf16, n, k, 1) : packed({bits, 32, false, n, k}, 1);
    float* h = poisoned(tokens.size() * count(k));
    embed(*queue_, made.weight, up(tokens), static_cast<int>(tokens.size()), h);
    const auto rows = down<float>(h, tokens.size() * count(k));
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int i = 0; i < k; ++i)
        ASSERT_EQ(rows[t * count(k) + count(i)], made.values[count(tokens[t] * k + i)]) << bits << " bits";
    }
  }
}

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
      memory_.emplace_back(count(rows * 3 * ld) * 2);
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
      call.parts = 3;
      call.partial = partial.as<float>();
      rope_and_store(*queue_, on_card, heads, call.places, cache);
      attention(*queue_, call, false);
      const auto together = down_parts(out, rows, s.heads * s.dim, 3, ld);

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
        for (const bool rope_inside : {false, true}) {
          if (rope_inside && kind != CacheKind::kF16) continue;
          float* step = up(last);
          call.qkv = step;
          call.places = {up(std::vector<int32_t>{first, second}), up(std::vector<int32_t>{1, 0}), 2};
          call.splits = splits;
          call.rope = rope_inside;
          if (!rope_inside) rope_and_store(*queue_, step, heads, call.places, cache);
          attention(*queue_, call, false);
          const auto got = down_parts(out, 2, s.heads * s.dim, 3, ld);
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
