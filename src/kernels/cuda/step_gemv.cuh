// Products of a step's units of weights, which lie in the stages of the ring (step_ring.cuh), with its input
// (step_input.cuh).
#pragma once

#include "kernels/cuda/step_input.cuh"

namespace nibble::cuda {
namespace {

// As an exact float32 number.
__device__ __forceinline__ float small_float(uint32_t value) {
  return __uint_as_float(value | 0x4b000000u) - 8388608.0f;
}

// What a lane reads of a unit.
template <Form F, int kSteps>
struct StepUnit {
  static constexpr int kScales = kUnitInputs<F> / 16 / kSteps;
  uint4 codes, x[kUnitInputs<F> / 32];
  float2 x_sums[kScales];
  uint32_t scale[kScales];  // a half2
  uint32_t zero[kScales];   // of rows g and g + 8, as it lies in memory
};

// Where a lane reads a stage and the input.
struct StageView {
  const unsigned char *codes, *scales, *zeros;
  const __half* x;
  const float* x_sums;
  int first_group, last_group, shift;
};

// `step`: units of the panel before this one.
template <Form F, int kSteps>
__device__ __forceinline__ StepUnit<F, kSteps> load_unit(const StageView& view, int unit, int step) {
  StepUnit<F, kSteps> u;
  u.codes = *reinterpret_cast<const uint4*>(view.codes + unit * 512);
  const __half* x = view.x + step * kUnitInputs<F>;
#pragma unroll
  for (int i = 0; i < kUnitInputs<F> / 32; ++i) u.x[i] = *reinterpret_cast<const uint4*>(x + i * 32);
#pragma unroll
  for (int s = 0; s < u.kScales; ++s) {
    const int at = step * u.kScales + s;
    // Behind the last input there may be steps without a group; their codes and inputs are zeros.
    const int group = min(at >> view.shift, view.last_group) - view.first_group;
    u.x_sums[s] = *reinterpret_cast<const float2*>(view.x_sums + at * 8);
    u.scale[s] = *reinterpret_cast<const uint32_t*>(view.scales + group * 32);
    u.zero[s] = F == Form::kQ4 ? view.zeros[group * kGroupZeros]
                               : *reinterpret_cast<const uint16_t*>(view.zeros + group * 2 * kGroupZeros);
  }
  return u;
}

// acc += the unit's products. middle: the zero point where there are no zeros in memory.
template <Form F, int kSteps>
__device__ __forceinline__ void multiply_unit(const StepUnit<F, kSteps>& u, bool has_zeros, float middle,
                                              float (&acc)[4]) {
#pragma unroll
  for (int s = 0; s < u.kScales; ++s) {
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int step = s * kSteps + i;
      const uint4& both = u.x[step / 2];
      uint32_t a[4];
      codes_of_step<F>(u.codes, step, a);
      multiply(sum, a[0], a[1], a[2], a[3], step % 2 == 0 ? both.x : both.z, step % 2 == 0 ? both.y : both.w);
    }
    constexpr bool kNarrow = F == Form::kQ4;
    const float low = has_zeros ? small_float(u.zero[s] & (kNarrow ? 0x0fu : 0xffu)) : middle,
                high = has_zeros ? small_float(kNarrow ? u.zero[s] & 0xf0u : u.zero[s] >> 8)
                                 : middle * (kNarrow ? 16 : 1);
    const float2 scale = __half22float2(*reinterpret_cast<const __half2*>(&u.scale[s]));
    acc[0] += scale.x * (sum[0] - low * u.x_sums[s].x);
    acc[1] += scale.x * (sum[1] - low * u.x_sums[s].y);
    acc[2] += scale.y * (sum[2] - high * u.x_sums[s].x);
    acc[3] += scale.y * (sum[3] - high * u.x_sums[s].y);
  }
}

// acc += the products of a stage's units that are this warp's (own_input()), kTogether at a time.
template <Form F, int kSteps, int kTogether>
__device__ __forceinline__ void multiply_units(const StageView& view, int first, int units, int warp,
                                               bool has_zeros, float middle, float (&acc)[4]) {
#pragma unroll 1
  for (int begin = (warp - first) & (kStepWarps - 1); begin < units; begin += kTogether * kStepWarps) {
    StepUnit<F, kSteps> u[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int unit = begin + i * kStepWarps, there = unit < units ? unit : begin;
      u[i] = load_unit<F, kSteps>(view, there, first + there);
      if (i > 0 && unit != there) {
#pragma unroll
        for (uint32_t& scale : u[i].scale) scale = 0;
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) multiply_unit<F, kSteps>(u[i], has_zeros, middle, acc);
  }
}

// Of a whole stage: everything lies at fixed distances.
template <Form F, int kSteps>
__device__ __forceinline__ void multiply_whole_stage(const StageView& view, int first, int warp,
                                                     bool has_zeros, float middle, float (&acc)[4]) {
  constexpr int kTogether = kStageUnits / kStepWarps, kWidth = kUnitInputs<F>;
  StepUnit<F, kSteps> u[kTogether];
  const unsigned char* codes = view.codes + warp * 512;
  const __half* x = view.x + (first + warp) * kWidth;
  const float* x_sums = view.x_sums + (first + warp) * (8 * u[0].kScales);
  const int group = (warp * u[0].kScales >> view.shift), stride = kStepWarps * u[0].kScales >> view.shift;
  constexpr int kZeros = F == Form::kQ4 ? kGroupZeros : 2 * kGroupZeros;
  const unsigned char *scales = view.scales + group * 32, *zeros = view.zeros + group * kZeros;
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    u[i].codes = *reinterpret_cast<const uint4*>(codes + i * kStepWarps * 512);
#pragma unroll
    for (int j = 0; j < kWidth / 32; ++j)
      u[i].x[j] = *reinterpret_cast<const uint4*>(x + i * kStepWarps * kWidth + j * 32);
#pragma unroll
    for (int s = 0; s < u[0].kScales; ++s) {
      u[i].x_sums[s] = *reinterpret_cast<const float2*>(x_sums + (i * kStepWarps * u[0].kScales + s) * 8);
      const int at = i * stride + (s >> view.shift);
      u[i].scale[s] = *reinterpret_cast<const uint32_t*>(scales + at * 32);
      u[i].zero[s] =
          F == Form::kQ4 ? zeros[at * kZeros] : *reinterpret_cast<const uint16_t*>(zeros + at * kZeros);
    }
  }
#pragma unroll
  for (int i = 0; i < kTogether; ++i) multiply_unit<F, kSteps>(u[i], has_zeros, middle, acc);
}

template <Form F, int kSteps>
__device__ __forceinline__ void multiply_stage(const StageView& view, int first, int units, int warp,
                                               bool has_zeros, float middle, float (&acc)[4]) {
  if (units == kStageUnits && (kStepWarps >> view.shift) << view.shift == kStepWarps) {
    multiply_whole_stage<F, kSteps>(view, first, warp, has_zeros, middle, acc);
  } else {
    multiply_units<F, kSteps, 2>(view, first, units, warp, has_zeros, middle, acc);
  }
}

}  // namespace
}  // namespace nibble::cuda
