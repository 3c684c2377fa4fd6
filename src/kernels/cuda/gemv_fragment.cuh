// What a warp of the kernel for few rows (gemv_kernel.cuh) holds of a panel of weights, and its product with
// the input.
#pragma once

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

enum class Form { kF16, kQ4, kQ8 };

template <Form F>
constexpr int kUnitInputs = F == Form::kQ4 ? 64 : 32;  // inputs that a warp takes in one go

// Elements that keep the columns of the input apart in shared memory, so that their reads do not collide.
template <Form F>
constexpr int kColumnPad = F == Form::kF16 ? 32 : 16;

__device__ __forceinline__ uint4 load_weights(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// d += a · b, of fp16 tiles 16 × 16 and 16 × 8.
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
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
struct Fragment<Form::kF16, kSteps, kWide> {
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
struct Cursor<Form::kF16> {
  const __half *low, *high;
  int end;  // inputs that may be read from the lane's first
};

template <Form F>
__device__ __forceinline__ Cursor<F> open_panel(const Weight& w, int panel, int units, int groups, int lane) {
  Cursor<F> cursor;
  const int g = lane / 4;
  if constexpr (F == Form::kF16) {
    const __half* data = static_cast<const __half*>(w.data) + lane % 4 * 8;
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
  if constexpr (F == Form::kF16) {
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

// A code's bits, as they lie, are an fp16 number below the normal ones: the code times 2⁻²⁴, and 16 times
// that where they are the upper nibble of a byte. So they are for rows g + 8 of kQ4.
template <Form F>
constexpr float kLowUnit = 0x1p-24f;
template <Form F>
constexpr float kHighUnit = F == Form::kQ4 ? 0x1p-20f : 0x1p-24f;

// The zero points of rows g and g + 8, twice each, in the units of their codes.
template <Form F, bool kWide>
__device__ __forceinline__ uint2 zero_operands(uint32_t zero, bool wide_zeros) {
  if (F == Form::kQ8 || (kWide && wide_zeros)) {
    uint32_t high = (zero >> 8 & 0xffu) * 0x10001u;
    if (F == Form::kQ4) {  // too large for a number below the normal ones
      const __half2 sixteen = __hmul2(*reinterpret_cast<const __half2*>(&high), __float2half2_rn(16.0f));
      high = *reinterpret_cast<const uint32_t*>(&sixteen);
    }
    return make_uint2((zero & 0xffu) * 0x10001u, high);
  }
  return make_uint2((zero & 0x0fu) * 0x10001u, (zero & 0xf0u) * 0x10001u);
}

// a − b of two pairs of fp16 numbers.
__device__ __forceinline__ uint32_t subtract(uint32_t a, uint32_t b) {
  const __half2 difference =
      __hsub2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&difference);
}

// The four registers of the left operand: codes of step `step`, in units kLowUnit and kHighUnit.
template <Form F>
__device__ __forceinline__ void codes_of_step(const uint4& codes, int step, uint32_t (&a)[4]) {
  if constexpr (F == Form::kQ4) {
    const uint32_t word = step == 0 ? codes.x : step == 1 ? codes.y : step == 2 ? codes.z : codes.w;
    a[0] = word & 0x000f000fu;
    a[1] = word & 0x00f000f0u;
    a[2] = word >> 8 & 0x000f000fu;
    a[3] = word >> 8 & 0x00f000f0u;
  } else {
    const uint32_t low = step == 0 ? codes.x : codes.z, high = step == 0 ? codes.y : codes.w;
    a[0] = __byte_perm(low, 0, 0x4140);
    a[1] = __byte_perm(high, 0, 0x4140);
    a[2] = __byte_perm(low, 0, 0x4342);
    a[3] = __byte_perm(high, 0, 0x4342);
  }
}

// The same less their zero points; exact.
template <Form F>
__device__ __forceinline__ void to_operand(const uint4& codes, int step, uint2 zeros, uint32_t (&a)[4]) {
  codes_of_step<F>(codes, step, a);
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = subtract(a[i], i % 2 == 0 ? zeros.x : zeros.y);
}

// Where a lane reads the columns of the input: its column of each tile, or the last one, whose product is
// then not used.
template <Form F, int kTiles>
struct Columns {
  const __half* of_tile[kTiles];
};
template <Form F, int kTiles>
__device__ __forceinline__ Columns<F, kTiles> open_columns(const __half* x, int stride, int columns,
                                                           int lane) {
  Columns<F, kTiles> found;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    found.of_tile[tile] =
        x + min(tile * 8 + lane / 4, columns - 1) * stride + lane % 4 * (F == Form::kF16 ? 8 : 4);
  return found;
}

// acc += the unit's part of the product, whose first input is `first`. Packed: in units of the operands.
template <Form F, int kSteps, bool kWide, int kTiles>
__device__ __forceinline__ void compute(const Fragment<F, kSteps, kWide>& f, bool float_scales,
                                        bool wide_zeros, const Columns<F, kTiles>& x, int first,
                                        float (&acc)[kTiles][4]) {
  if constexpr (F == Form::kF16) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 b = *reinterpret_cast<const uint4*>(x.of_tile[tile] + first);
      multiply(acc[tile], f.low.x, f.high.x, f.low.y, f.high.y, b.x, b.y);
      multiply(acc[tile], f.low.z, f.high.z, f.low.w, f.high.w, b.z, b.w);
    }
  } else {
#pragma unroll
    for (int s = 0; s < Fragment<F, kSteps, kWide>::kScales; ++s) {
      float sum[kTiles][4] = {};
      const uint2 zeros = zero_operands<F, kWide>(f.zero[s], wide_zeros);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int step = s * kSteps + i;
        uint32_t a[4];
        to_operand<F>(f.codes, step, zeros, a);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const uint2 b = *reinterpret_cast<const uint2*>(x.of_tile[tile] + first + step * 16);
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
