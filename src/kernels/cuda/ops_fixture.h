// What the tests of the card's operations share: memory on the card, weights in every form, products in
// float64.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cuda/ops.h"
#include "tensor/dtype.h"
#include "tensor/packed.h"

namespace nibble::cuda {

inline std::vector<float> normals(size_t n, uint64_t seed, float scale = 1) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& v : values) {
    const double u = random.uniform() + 1e-12, w = random.uniform();
    v = scale * static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * w));
  }
  return values;
}

inline size_t count(int64_t n) { return static_cast<size_t>(n); }

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
  // [rows, parts, ld] of x [rows, k]; what the parts stand for takes x's place.
  uint16_t* up_parts(std::vector<float>& x, int rows, int k, int parts) {
    const int64_t ld = input_stride(k);
    std::vector<uint16_t> all(count(rows * parts * ld));
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < k; ++i) {
        float rest = x[count(r * k + i)] / kInputUnit, unit = kInputUnit, sum = 0;
        for (int p = 0; p < parts; ++p, unit /= kPartStep) {
          const uint16_t part = float_to_fp16(rest);
          all[count((r * parts + p) * ld + i)] = part;
          rest = (rest - fp16_to_float(part)) * kPartStep;
          sum += fp16_to_float(part) * unit;
        }
        x[count(r * k + i)] = sum;
      }
    }
    return up(all);
  }
  // Of parts on the card: what they stand for.
  std::vector<float> down_parts(const void* from, int rows, int n, int parts, int64_t ld) {
    const auto all = down<uint16_t>(from, count(rows * parts * ld));
    std::vector<float> x(count(rows * n));
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        float& value = x[count(r * n + i)];
        for (int p = parts - 1; p >= 0; --p)
          value = value / kPartStep + fp16_to_float(all[count((r * parts + p) * ld + i)]);
        value *= kInputUnit;
      }
    }
    return x;
  }

  // A weight on the card and what it stands for.
  struct Made {
    Weight weight;
    std::vector<float> values;  // [n, k]
  };
  Made dense(DType dtype, int n, int k, uint64_t seed) {
    Made made;
    made.values = normals(count(n * k), seed, 0.05f);
    Weight& w = made.weight;
    w.kind = dtype == DType::kF32 ? WeightKind::kF32 : WeightKind::kF16;
    w.n = n;
    w.k = k;
    w.stride = round_up(k, 8);
    std::vector<uint16_t> half(count(n * w.stride));
    std::vector<float> full(count(n * w.stride));
    for (int r = 0; r < n; ++r) {
      for (int i = 0; i < k; ++i) {
        float& v = made.values[count(r * k + i)];
        const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(v) : float_to_fp16(v);
        half[count(r * w.stride + i)] = bits;
        if (dtype == DType::kBF16) v = bf16_to_float(bits);
        if (dtype == DType::kF16) v = fp16_to_float(bits);
        full[count(r * w.stride + i)] = v;
      }
    }
    if (dtype == DType::kF32) {
      w.data = up(full);
      return made;
    }
    uint16_t* data = up(half);
    if (dtype == DType::kBF16) w.unit = to_fp16(*queue_, data, n * w.stride, up(std::vector<float>(1)));
    w.data = data;
    return made;
  }
  Made packed(const PackedFormat& f, uint64_t seed) {
    QuantizedMatrix q(f);
    Random random(seed);
    for (auto& c : q.codes) c = static_cast<uint8_t>(random.below(count(f.max_code()) + 1));
    const auto scales = normals(q.scales.size(), seed + 1, 0.01f);
    for (size_t i = 0; i < scales.size(); ++i)
      q.scales[i] = rounded_scale(f.scale_type == ScaleType::kByte ? std::fabs(scales[i]) : scales[i],
                                  f.scale_type, 0x1.0p-12f);
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
    w.float_scales = f.scale_type == ScaleType::kF32;
    w.wide_zeros = f.zero_bytes_per_group() == 16;
    const auto bytes = [&](const void* from, size_t n) {
      const uint8_t* p = static_cast<const uint8_t*>(from);
      return up(std::vector<uint8_t>(p, p + n));
    };
    memory_.emplace_back(tile_bytes(w.kind, w.n, w.k));
    void* tiles = memory_.back().as<void>();
    retile(*queue_, bytes(host.codes.data(), host.codes.bytes()), f.bits, w.n, w.k, tiles);
    w.data = tiles;
    const int size = w.float_scales ? 4 : 2, groups = static_cast<int>(f.groups());
    memory_.emplace_back(count(f.panels() * f.groups() * kPanelRows * size));
    void* pairs = memory_.back().as<void>();
    const uint8_t* scales_there = bytes(host.scales.data(), host.scales.bytes());
    if (f.scale_type == ScaleType::kByte) {
      unit_scales(*queue_, scales_there, pairs, f.panels(), groups, 0, groups);
    } else {
      pair_rows(*queue_, scales_there, pairs, f.panels() * f.groups(), size);
    }
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

}  // namespace nibble::cuda
