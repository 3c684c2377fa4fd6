// Products, norms and embeddings of the card against float64 loops, on odd shapes. Skips where no card can be
// used.
#include "kernels/cuda/ops_fixture.h"

namespace nibble::cuda {
namespace {

TEST_F(CudaOps, DenseLinearsMatchFloat64) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const auto& [n, k] :
         std::vector<std::pair<int, int>>{{1, 1}, {17, 100}, {33, 256}, {48, 600}, {200, 1111}}) {
      for (const int rows : {1, 2, 7, 8, 16, 33}) {
        for (const int parts : {1, 2}) {
          check_linear(dense(dtype, n, k, 5), rows, parts, rows % 2 == 0, 2e-6,
                       fmt::format("{} n {} k {} rows {} parts {}", dtype_name(dtype), n, k, rows, parts));
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
          if (n == 17 || n == 8) f.scale_type = ScaleType::kF32;
          if (n == 33 && !symmetric) f.scale_type = ScaleType::kByte;
          f.wide_zeros = f.scale_type == ScaleType::kF32 && bits <= 4;
          const Made made = packed(f, count(bits * 1000 + group));
          for (const int rows : {1, 2, 7, 8, 33, 60}) {
            for (const int parts : {1, 2}) {
              // Many rows of one part: weights are rounded to fp16 for the matrix units.
              const double tolerance = rows == 60 && parts == 1 ? 6e-4 : 4e-6;
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
    check_linear(straight, rows, 1, false, rows == 60 ? 6e-4 : 4e-6, fmt::format("rows {}", rows));
    if (HasFatalFailure()) return;
  }
}

// Norm, several weights and what follows them, in one kernel.
TEST_F(CudaOps, FusedGemvMatchesFloat64) {
  for (const bool layer_norm : {false, true}) {
    for (const bool is_packed : {false, true}) {
      for (const auto& [rows, parts] :
           std::vector<std::pair<int, int>>{{1, 1}, {1, 2}, {3, 1}, {5, 2}, {16, 1}}) {
        const int k = 224, n1 = 37, n2 = 16, inner = 90;
        const auto make = [&](int n, uint64_t seed) {
          return is_packed ? packed({4, 32, false, n, k}, seed) : dense(DType::kBF16, n, k, seed);
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
        // One part rounds an input by up to 2⁻¹² of itself, near ties either way.
        const double tolerance = parts == 1 ? 5e-4 : 5e-6, rounding = parts == 1 ? 1e-3 : 1e-5;
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
    memory_.emplace_back(count(rows * 2 * ld) * 2);
    void* out = memory_.back().as<void>();
    for (const bool layer_norm : {false, true}) {
      norm(*queue_, up(h), n, {up(weight), layer_norm ? up(shift) : nullptr, 1e-5f}, rows, 2, out, ld);
      const auto y = down_parts(out, rows, n, 2, ld);
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
    swiglu(*queue_, up(pair), n, rows, 2, out, ld);
    const auto gated = down_parts(out, rows, n, 2, ld);
    gelu(*queue_, up(h), n, rows, 2, out, ld);
    const auto smooth = down_parts(out, rows, n, 2, ld);
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
    const Made made = bits == 0 ? dense(DType::kBF16, n, k, 1) : packed({bits, 32, false, n, k}, 1);
    float* h = poisoned(tokens.size() * count(k));
    embed(*queue_, made.weight, up(tokens), static_cast<int>(tokens.size()), h, false);
    const auto rows = down<float>(h, tokens.size() * count(k));
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int i = 0; i < k; ++i)
        ASSERT_EQ(rows[t * count(k) + count(i)], made.values[count(tokens[t] * k + i)]) << bits << " bits";
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
