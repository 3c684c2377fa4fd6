// What a warp of the kernel for few rows (gemv_kernel.cuh) holds of a panel of weights, and its product with
// the input.
#pragma once

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

using Bf16 = __nv_bfloat16;

enum class Form { kBf16, kQ4, kQ8 };

template <Form F>
constexpr int kUnitInputs = F == Form::kQ4 ? 64 : 32;  // inputs that a warp takes in one go

// Elements that keep the columns of the input apart in shared memory, so that their reads do not collide.
template <Form F>
constexpr int kColumnPad = F == Form::kBf16 ? 32 : 16;

__device__ __forceinline__ uint4 load_weights(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// d += a · b, of bf16 tiles 16 × 16 and 16 × 8.
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t subtract(uint32_t a, uint32_t b) {
  const __nv_bfloat162 difference =
      __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&difference);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// What a lane (g = lane / 4, t = lane % 4) holds of a unit: rows g and g + 8 of the panel. kSteps: products
// of 16 inputs that share a scale; kWide: scales may be float32 and zero points a byte, as the weight says.
template <Form F, int kSteps, bool kWide>
struct Fragment {
  static constexpr int kScales = kUnitInputs<F> / 16 / kSteps;
  uint4 codes;
  uint32_t scale[kScales];                    // a half2, or the float of row g
  uint32_t other_scale[kWide ? kScales : 1];  // the float of row g + 8
  uint32_t zero[kScales];                     // as it lies in memory
};
template <int kSteps, bool kWide>
struct Fragment<Form::kBf16, kSteps, kWide> {
  uint4 low, high;  // rows g and g + 8, inputs 8t … 8t + 7
};

// Where a lane reads a panel; found once for each, so that a unit costs a few additions.
template <Form F>
struct Cursor {
  const uint4* codes;
  const uint32_t* scales;
  const uint8_t* zeros;
  uint32_t middle;
  bool float_scales, wide_zeros;
};
template <>
struct Cursor<Form::kBf16> {
  const Bf16 *low, *high;
  int end;  // inputs that may be read from the lane's first
};

template <Form F>
__device__ __forceinline__ Cursor<F> open_panel(const Weight& w, int panel, int units, int groups, int lane) {
  Cursor<F> cursor;
  const int g = lane / 4;
  if constexpr (F == Form::kBf16) {
    const Bf16* data = static_cast<const Bf16*>(w.data) + lane % 4 * 8;
    cursor.low = data + min(panel * 16 + g, w.n - 1) * w.stride;
    cursor.high = data + min(panel * 16 + g + 8, w.n - 1) * w.stride;
    cursor.end = static_cast<int>(w.stride) - lane % 4 * 8;
  } else {
    const int64_t pair = int64_t{panel} * groups * 8 + g;
    cursor.float_scales = w.float_scales;
    cursor.wide_zeros = F == Form::kQ8 || w.wide_zeros;
    cursor.codes = static_cast<const uint4*>(w.data) + int64_t{panel} * units * 32 + lane;
    cursor.scales = static_cast<const uint32_t*>(w.scales) + (w.float_scales ? 2 * pair : pair);
    cursor.zeros = w.zeros ? w.zeros + (cursor.wide_zeros ? 2 * pair : pair) : nullptr;
    cursor.middle = static_cast<uint32_t>(w.middle) * (cursor.wide_zeros ? 0x101u : 0x11u);
  }
  return cursor;
}

// magic: ⌈2³² / group⌉, 0 for one group (group_magic()).
template <Form F, int kSteps, bool kWide>
__device__ __forceinline__ void load(Fragment<F, kSteps, kWide>& f, const Cursor<F>& from, int unit,
                                     int groups, uint32_t magic) {
  if constexpr (F == Form::kBf16) {
    f.low = f.high = make_uint4(0, 0, 0, 0);
    if (unit * 32 < from.end) {
      f.low = load_weights(from.low + unit * 32);
      f.high = load_weights(from.high + unit * 32);
    }
  } else {
    f.codes = load_weights(from.codes + unit * 32);
#pragma unroll
    for (int s = 0; s < Fragment<F, kSteps, kWide>::kScales; ++s) {
      // Behind the last input there may be steps without a group; their codes and inputs are zeros.
      const int group = static_cast<int>(__umulhi(unit * kUnitInputs<F> + s * kSteps * 16, magic));
      const int at = min(group, groups - 1) * 8;
      if constexpr (kWide) {
        f.scale[s] = __ldg(from.scales + (from.float_scales ? 2 * at : at));
        f.other_scale[s] = from.float_scales ? __ldg(from.scales + 2 * at + 1) : 0;
      } else {
        f.scale[s] = __ldg(from.scales + at);
      }
      f.zero[s] = from.middle;
      if (from.zeros) {
        if (F == Form::kQ8 || (kWide && from.wide_zeros)) {
          f.zero[s] = __ldg(reinterpret_cast<const uint16_t*>(from.zeros) + at);
        } else {
          f.zero[s] = __ldg(from.zeros + at);
        }
      }
    }
  }
}

// The four registers of the left operand: codes of step `step` less their zero points.
template <Form F, bool kWide>
__device__ __forceinline__ void to_operand(const uint4& codes, int step, uint32_t zero, bool wide_zeros,
                                           uint32_t (&a)[4]) {
  if constexpr (F == Form::kQ4) {
    const uint32_t word = step == 0 ? codes.x : step == 1 ? codes.y : step == 2 ? codes.z : codes.w;
    // 0x4300 is 128 in bf16, whose last seven bits count units.
    const bool wide = kWide && wide_zeros;
    const uint32_t z0 = wide ? 0x43004300u : 0x43004300u | (zero & 15u) * 0x10001u;
    const uint32_t z1 = wide ? 0x43004300u : 0x43004300u | (zero >> 4) * 0x10001u;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t value;
      // (word >> 4i & 0x000f000f) | 0x43004300
      asm("lop3.b32 %0, %1, %2, %3, 0xea;"
          : "=r"(value)
          : "r"(word >> (4 * i)), "r"(0x000f000fu), "r"(0x43004300u));
      a[i] = subtract(value, i % 2 == 0 ? z0 : z1);
    }
    if (wide) {
      const float low = static_cast<float>(zero & 0xffu), high = static_cast<float>(zero >> 8);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = subtract(a[i], i % 2 == 0 ? pack_bf16(low, low) : pack_bf16(high, high));
    }
  } else {
    const float z0 = __uint_as_float(0x4b000000u | (zero & 0xffu)),
                z1 = __uint_as_float(0x4b000000u | zero >> 8);
    const uint32_t low = step == 0 ? codes.x : codes.z, high = step == 0 ? codes.y : codes.w;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = i % 2 == 0 ? low : high;
      const float z = i % 2 == 0 ? z0 : z1;
      const int first = i / 2 * 2;
      // 2²³ + code as float32
      const float c0 = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + first));
      const float c1 = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7441 + first));
      a[i] = pack_bf16(c0 - z, c1 - z);
    }
  }
}

// acc += the unit's part of the product; column c of the input starts at x + c · stride.
template <Form F, int kSteps, bool kWide, int kTiles>
__device__ __forceinline__ void compute(const Fragment<F, kSteps, kWide>& f, bool float_scales,
                                        bool wide_zeros, const Bf16* x, int stride, int columns, int lane,
                                        float (&acc)[kTiles][4]) {
  const int g = lane / 4, t = lane % 4;
  if constexpr (F == Form::kBf16) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint4 b = make_uint4(0, 0, 0, 0);
      const int column = tile * 8 + g;
      if (column < columns) b = *reinterpret_cast<const uint4*>(x + column * stride + t * 8);
      multiply(acc[tile], f.low.x, f.high.x, f.low.y, f.high.y, b.x, b.y);
      multiply(acc[tile], f.low.z, f.high.z, f.low.w, f.high.w, b.z, b.w);
    }
  } else {
#pragma unroll
    for (int s = 0; s < Fragment<F, kSteps, kWide>::kScales; ++s) {
      float sum[kTiles][4] = {};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int step = s * kSteps + i;
        uint32_t a[4];
        to_operand<F, kWide>(f.codes, step, f.zero[s], wide_zeros, a);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          uint2 b = make_uint2(0, 0);
          const int column = tile * 8 + g;
          if (column < columns) b = *reinterpret_cast<const uint2*>(x + column * stride + step * 16 + t * 4);
          multiply(sum[tile], a[0], a[1], a[2], a[3], b.x, b.y);
        }
      }
      float2 scale = __half22float2(*reinterpret_cast<const __half2*>(&f.scale[s]));
      if constexpr (kWide) {
        if (float_scales) scale = make_float2(__uint_as_float(f.scale[s]), __uint_as_float(f.other_scale[s]));
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        acc[tile][0] += scale.x * sum[tile][0];
        acc[tile][1] += scale.x * sum[tile][1];
        acc[tile][2] += scale.y * sum[tile][2];
        acc[tile][3] += scale.y * sum[tile][3];
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
