// Products of few rows with weights that are read once, at the speed of the card's memory.
//
// A block takes panels of 16 weight rows, its warps share a panel's inputs, and the matrix units multiply:
// weights are the left operand (m16n8k16), columns of the right one are rows · parts of the input. Codes are
// turned into bf16 integers q − zero, which is exact; a group's sum is multiplied by its scale in float32.
// Weights come straight into registers, several units of a warp on their way at a time; the first are asked
// for before the kernel in front has ended (launch.cuh), inputs after. Through shared memory (cp.async, eight
// units on their way) it was slower: more instructions a unit.
#pragma once

#include <algorithm>

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

// The kernel is started over and over with little to do: what follows is written for few instructions, since
// those that no earlier kernel has left in the instruction cache cost more than they do.

// Columns of the input into shared memory as they are.
__device__ __forceinline__ void stage_copy(const Gemv& call, int k, Bf16* x, int stride) {
  const int padded = (k + 63) / 64 * 64, columns = call.rows * call.parts;
  const Bf16* from = static_cast<const Bf16*>(call.x);
  for (int column = 0; column < columns; ++column, from += call.ldx, x += stride) {
#pragma unroll 2
    for (int i = threadIdx.x * 8; i < padded; i += blockDim.x * 8)
      *reinterpret_cast<uint4*>(x + i) = *reinterpret_cast<const uint4*>(from + i);
  }
}

// The norm's weights for the first inputs of a thread, asked for before the kernel in front has ended.
constexpr int kEarly = 2;

// Σ term(v) over k numbers from h on, divided by k, by the block for `rows` rows: in means[row].
template <bool kSquares>
__device__ __forceinline__ void row_means(const float* h, int k, int rows, const float* centers, float* room,
                                          float* means) {
  const int threads = blockDim.x, thread = threadIdx.x, warps = threads / 32;
  for (int row = 0; row < rows; ++row, h += k) {
    const float center = centers ? centers[row] : 0.0f;
    float sum = 0;
#pragma unroll 2
    for (int i = thread * 4; i < k; i += threads * 4) {
      const float4 v = *reinterpret_cast<const float4*>(h + i);
      const float a = v.x - center, b = v.y - center, c = v.z - center, d = v.w - center;
      sum += kSquares ? (a * a + b * b) + (c * c + d * d) : (a + b) + (c + d);
    }
    sum = warp_sum(sum);
    if (thread % 32 == 0) room[row * 16 + thread / 32] = sum;
  }
  __syncthreads();
  for (int row = thread / 32; row < rows; row += warps) {
    float sum = thread % 32 < warps ? room[row * 16 + thread % 32] : 0.0f;
    sum = warp_sum(sum);
    if (thread % 32 == 0) means[row] = sum / static_cast<float>(k);
  }
  __syncthreads();
}

// The norm of the rows of h into shared memory; `room` of kMaxColumns · 18 floats.
__device__ __forceinline__ void stage_norm(const Gemv& call, int k, const float4 (&early)[kEarly], Bf16* x,
                                           int stride, float* room) {
  const int padded = (k + 63) / 64 * 64, threads = blockDim.x, thread = threadIdx.x;
  float *variances = room + kMaxColumns * 16, *centers = nullptr;
  if (call.norm.bias) {
    centers = variances + kMaxColumns;
    row_means<false>(call.h, k, call.rows, nullptr, room, centers);
  }
  row_means<true>(call.h, k, call.rows, centers, room, variances);
  const float* h = call.h;
  for (int row = 0; row < call.rows; ++row, h += k, x += call.parts * stride) {
    const float inverse = 1.0f / sqrtf(variances[row] + call.norm.eps),
                center = centers ? centers[row] : 0.0f;
    int chunk = 0;
    for (int i = thread * 4; i < padded; i += threads * 4, ++chunk) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i < k) {
        v = *reinterpret_cast<const float4*>(h + i);
        const float4 w = chunk == 0   ? early[0]
                         : chunk == 1 ? early[1]
                                      : *reinterpret_cast<const float4*>(call.norm.weight + i);
        v = make_float4((v.x - center) * inverse * w.x, (v.y - center) * inverse * w.y,
                        (v.z - center) * inverse * w.z, (v.w - center) * inverse * w.w);
        if (centers) {
          const float4 shift = *reinterpret_cast<const float4*>(call.norm.bias + i);
          v = make_float4(v.x + shift.x, v.y + shift.y, v.z + shift.z, v.w + shift.w);
        }
      }
      for (int part = 0; part < call.parts; ++part) {
        const uint2 rounded = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
        *reinterpret_cast<uint2*>(x + part * stride + i) = rounded;
        const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&rounded.x)),
                     high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&rounded.y));
        v = make_float4(v.x - low.x, v.y - low.y, v.z - high.x, v.w - high.y);
      }
    }
  }
}

// Columns in the weight's order, or a norm whose rows are not made of fours: seldom, so kept out of the way.
__device__ __noinline__ void stage_slowly(const Gemv& call, int k, const int32_t* order, Bf16* x,
                                          int stride) {
  const int padded = (k + 63) / 64 * 64, threads = blockDim.x, thread = threadIdx.x;
  if (call.x) {
    const Bf16* from = static_cast<const Bf16*>(call.x);
    for (int column = 0; column < call.rows * call.parts; ++column) {
      for (int i = thread; i < padded; i += threads)
        x[column * stride + i] =
            i < k ? from[column * call.ldx + (order ? order[i] : i)] : __float2bfloat16_rn(0.0f);
    }
    return;
  }
  for (int row = thread / 32; row < call.rows; row += threads / 32) {
    const float* h = call.h + int64_t{row} * k;
    float center = 0, sum = 0;
    if (call.norm.bias) {
      for (int i = thread % 32; i < k; i += 32) sum += h[i];
      center = warp_sum(sum) / static_cast<float>(k);
      sum = 0;
    }
    for (int i = thread % 32; i < k; i += 32) sum += (h[i] - center) * (h[i] - center);
    const float inverse = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(k) + call.norm.eps);
    for (int i = thread % 32; i < padded; i += 32) {
      float value = 0;
      if (i < k) {
        const int from = order ? order[i] : i;
        value = (h[from] - center) * inverse * call.norm.weight[from];
        if (call.norm.bias) value += call.norm.bias[from];
      }
      store_parts(x + row * call.parts * stride + i, stride, call.parts, value);
    }
  }
}

// `item`: a panel of one of the jobs.
__device__ __forceinline__ int job_of(const Gemv& call, int item) {
  int job = 0;
  while (job + 1 < call.n_jobs && item >= call.jobs[job + 1].first_item) ++job;
  return job;
}

// What finish() reads of memory for output n of a row, asked for early.
struct Addends {
  float bias = 0, partner_bias = 0, before = 0;
};
__device__ __forceinline__ void load_biases(Addends& a, const GemvJob& job, int n) {
  if (job.weight.bias) a.bias = __ldg(job.weight.bias + n);
  if (job.partner.bias) a.partner_bias = __ldg(job.partner.bias + n);
}
__device__ __forceinline__ void load_before(Addends& a, const GemvJob& job, int row, int n) {
  if (job.finish == Finish::kAdd) a.before = job.y[row * job.ldy + n];
}

// Sums of the warps, turned into what the job asks for; sums[warp][column][16 rows].
__device__ __forceinline__ void finish(const GemvJob& job, int row, int n, int parts, const float* sums,
                                       int warps, int columns, const Addends& addends) {
  const auto total = [&](int first_warp) {
    float sum = 0;
    for (int part = 0; part < parts; ++part) {
      const float* from = sums + (first_warp * columns + row * parts + part) * 16 + n % 16;
#pragma unroll 4
      for (int w = 0; w < warps; ++w) sum += from[w * columns * 16];
    }
    return sum;
  };
  float value = total(0) + addends.bias;
  if (job.finish == Finish::kStore) {
    job.y[row * job.ldy + n] = value;
  } else if (job.finish == Finish::kAdd) {
    job.y[row * job.ldy + n] = addends.before + value;
  } else {
    value =
        job.finish == Finish::kGelu ? gelu_new(value) : silu(value) * (total(warps) + addends.partner_bias);
    store_parts(static_cast<Bf16*>(job.out) + row * parts * job.ld_out + n, job.ld_out, parts, value);
  }
}

struct Plan {
  int items;       // panels of all jobs
  int warps;       // of a block that share a panel; with a partner as many again take the partner's
  int together;    // panels whose sums are put together at once
  int x_bytes;     // of shared memory, for the input
  uint32_t magic;  // of the group
};

template <Form F, int kSteps, bool kWide, int kTiles>
__global__ void __maxnreg__(kGemvRegisters)
    gemv_kernel(const __grid_constant__ Gemv call, const __grid_constant__ Plan plan) {
  constexpr int kDepth = F == Form::kQ4 && kSteps == 1 ? 2 : 4;  // units on their way a warp
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float room[kMaxColumns * 18];
  Bf16* x = reinterpret_cast<Bf16*>(shared);
  float* sums = reinterpret_cast<float*>(shared + plan.x_bytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, block_warps = blockDim.x / 32;
  const bool partner = warp >= plan.warps;
  const int part = partner ? warp - plan.warps : warp;
  const Weight& like = call.jobs[0].weight;
  const int k = like.k, columns = call.rows * call.parts;
  const int units = (k + kUnitInputs<F> - 1) / kUnitInputs<F>;
  const int groups = F == Form::kBf16 ? 0 : (k + like.group - 1) / like.group;
  const int stride = (k + 63) / 64 * 64 + kColumnPad<F>;
  const bool float_scales = like.float_scales, wide_zeros = like.wide_zeros;
  const int step = static_cast<int>(gridDim.x);

  let_next_start();
  // Rounds of kDepth units; what a round computes was asked for in the round before.
  Fragment<F, kSteps, kWide> ring[kDepth];
  const auto open = [&](int item) {
    const GemvJob& job = call.jobs[job_of(call, item)];
    return open_panel<F>(partner ? job.partner : job.weight, item - job.first_item, units, groups, lane);
  };
  Cursor<F> cursor = open(blockIdx.x);
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (part + d * plan.warps < units)
      load<F, kSteps, kWide>(ring[d], cursor, part + d * plan.warps, groups, plan.magic);
  }

  // The output that this thread finishes first.
  Addends early;
  const GemvJob& first_job = call.jobs[job_of(call, blockIdx.x)];
  const int early_row = threadIdx.x / 16,
            early_n = (static_cast<int>(blockIdx.x) - first_job.first_item) * 16 + threadIdx.x % 16;
  const bool has_early = early_row < call.rows && early_n < first_job.weight.n;
  if (has_early) load_biases(early, first_job, early_n);
  const bool slowly = like.order || (!call.x && k % 4 != 0);
  float4 norm_early[kEarly];
  if (!call.x && !slowly) {
#pragma unroll
    for (int c = 0; c < kEarly; ++c) {
      const int i = (threadIdx.x + c * blockDim.x) * 4;
      if (i < k) norm_early[c] = __ldg(reinterpret_cast<const float4*>(call.norm.weight + i));
    }
  }
  wait_for_previous();
  if (has_early) load_before(early, first_job, early_row, early_n);
  if (slowly) {
    stage_slowly(call, k, like.order, x, stride);
  } else if (call.x) {
    stage_copy(call, k, x, stride);
  } else {
    stage_norm(call, k, norm_early, x, stride, room);
  }
  __syncthreads();

  float acc[kTiles][4] = {};
  const int sum_size = block_warps * columns * 16;  // of a panel
  float* half = sums;
  for (int batch = blockIdx.x; batch < plan.items; batch += plan.together * step) {
    int held = 0;
    for (int item = batch; held < plan.together && item < plan.items; item += step, ++held) {
      for (int unit = part; unit - part < units; unit += kDepth * plan.warps) {
        int next = unit + kDepth * plan.warps;
        if (next - part >= units) {
          next = item + step < plan.items ? part : units;  // the panel after this one, or none
          if (next < units) cursor = open(item + step);
        }
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          if (unit + d * plan.warps < units)
            compute<F, kSteps, kWide, kTiles>(ring[d], float_scales, wide_zeros,
                                              x + (unit + d * plan.warps) * kUnitInputs<F>, stride, columns,
                                              lane, acc);
          if (next + d * plan.warps < units)
            load<F, kSteps, kWide>(ring[d], cursor, next + d * plan.warps, groups, plan.magic);
        }
      }
      float* own = half + held * sum_size + warp * columns * 16 + lane / 4;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = tile * 8 + lane % 4 * 2 + i % 2;
          if (column < columns) own[column * 16 + i / 2 * 8] = acc[tile][i];
          acc[tile][i] = 0;
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < held * call.rows * 16; i += blockDim.x) {
      const int line = i / 16, which = call.rows == 1 ? line : plan.together == 1 ? 0 : line / call.rows;
      const int row = line - which * call.rows, item = batch + which * step;
      const GemvJob& job = call.jobs[job_of(call, item)];
      const int n = (item - job.first_item) * 16 + i % 16;
      if (n >= job.weight.n) continue;
      Addends addends = early;
      if (item != static_cast<int>(blockIdx.x) || i >= static_cast<int>(blockDim.x)) {
        addends = Addends();
        load_biases(addends, job, n);
        load_before(addends, job, row, n);
      }
      finish(job, row, n, call.parts, half + which * sum_size, plan.warps, columns, addends);
    }
    // The other half is free: everyone has come past the barrier since it was read.
    half = half == sums ? sums + plan.together * sum_size : sums;
  }
}

uint32_t group_magic(const Weight& w) {
  if (!w.packed() || w.group >= w.k) return 0;
  expect(int64_t{w.k} * w.group < int64_t{1} << 32);  // else the quotients would not be exact
  return static_cast<uint32_t>((int64_t{1} << 32) / w.group) + ((int64_t{1} << 32) % w.group > 0 ? 1 : 0);
}

template <Form F, int kSteps, bool kWide, int kTiles>
void launch_form(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  const Weight& w = call.jobs[0].weight;
  const int items = shape.items, threads = shape.threads;
  const int columns = call.rows * call.parts;
  Plan plan;
  plan.items = items;
  plan.warps = shape.warps;
  plan.x_bytes = columns * static_cast<int>(input_stride(w.k) + kColumnPad<F>) * 2;
  plan.magic = group_magic(w);
  auto kernel = gemv_kernel<F, kSteps, kWide, kTiles>;
  static const bool raised = [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device().shared_bytes_per_block - 2048),
          "more shared memory");
    return true;
  }();
  static_cast<void>(raised);
  const auto shared_bytes = [&] {
    return static_cast<size_t>(plan.x_bytes + 2 * plan.together * threads / 32 * columns * 16 * 4);
  };
  const auto slots = [&] {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes()),
          "occupancy");
    return device().multiprocessors * std::max(blocks, 1);
  };
  plan.together = 1;
  if (columns <= 2) plan.together = std::clamp(items / slots(), 1, 4);
  const int rounds = (items + slots() - 1) / slots();
  const size_t shared = shared_bytes();
  launch(queue, overlap, (items + rounds - 1) / rounds, threads, shared, kernel, call, plan);
}

template <Form F, int kSteps, bool kWide>
void launch_tiles(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  if (call.rows * call.parts <= 8) {
    launch_form<F, kSteps, kWide, 1>(queue, call, shape, overlap);
  } else {
    launch_form<F, kSteps, kWide, 2>(queue, call, shape, overlap);
  }
}

}  // namespace
}  // namespace nibble::cuda
