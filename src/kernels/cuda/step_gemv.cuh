// Products of a step's units of weights, which lie in the stages of the ring (step_ring.cuh), with its input
// (step_input.cuh).
#pragma once

#include "kernels/cuda/step_input.cuh"

namespace nibble::cuda {
namespace {

// What a lane (g = lane / 4, t = lane % 4) has of a unit's input: operands of column g, and the sums over all
// inputs that share a scale of columns 2t and, where there are more rows than one, 2t + 1.
template <Form F, int kSteps, int kColumns>
struct UnitInput {
  static constexpr int kScales = kUnitInputs<F> / 16 / kSteps;
  uint4 x[kUnitInputs<F> / 32];
  float sums[kScales][kColumns];
};
// Where a lane reads the input.
struct InputView {
  const __half* x;
  const float* sums;
};
template <Form F, int kSteps, int kColumns>
__device__ __forceinline__ void load_input(UnitInput<F, kSteps, kColumns>& u, const InputView& from,
                                           int unit) {
  const __half* x = from.x + unit * kUnitInputs<F>;
#pragma unroll
  for (int i = 0; i < kUnitInputs<F> / 32; ++i) u.x[i] = *reinterpret_cast<const uint4*>(x + i * 32);
#pragma unroll
  for (int s = 0; s < u.kScales; ++s) {
    const float* sums = from.sums + (unit * u.kScales + s) * 8;
    if constexpr (kColumns == 1) {
      u.sums[s][0] = *sums;
    } else {
      const float2 both = *reinterpret_cast<const float2*>(sums);
      u.sums[s][0] = both.x;
      u.sums[s][1] = both.y;
    }
  }
}

// What a lane reads of a unit of weights. scale: a half2; zero: of rows g and g + 8, as it lies in memory.
template <Form F, int kSteps>
struct UnitWeights {
  static constexpr int kScales = kUnitInputs<F> / 16 / kSteps;
  uint4 codes;
  uint32_t scale[kScales], zero[kScales];
};

// A number below 1,024, in kLowUnit: the bits of an fp16 number below the normal ones.
__device__ __forceinline__ float small_number(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// acc, rows g and g + 8 of each column, += the unit's products. Zero points leave products by
// Σ (c − z)·x = Σ c·x − z·Σ x.
template <Form F, int kSteps, int kColumns>
__device__ __forceinline__ void multiply_unit(const UnitWeights<F, kSteps>& w,
                                              const UnitInput<F, kSteps, kColumns>& input,
                                              float (&acc)[2][kColumns]) {
  constexpr bool kNarrow = F == Form::kQ4;
#pragma unroll
  for (int s = 0; s < w.kScales; ++s) {
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int step = s * kSteps + i;
      const uint4& both = input.x[step / 2];
      uint32_t a[4];
      codes_of_step<F>(w.codes, step, a);
      multiply(sum, a[0], a[1], a[2], a[3], step % 2 == 0 ? both.x : both.z, step % 2 == 0 ? both.y : both.w);
    }
    const float low = small_number(w.zero[s] & (kNarrow ? 0x0fu : 0xffu)),
                high = small_number(kNarrow ? w.zero[s] & 0xf0u : w.zero[s] >> 8);
    const float2 scale = __half22float2(*reinterpret_cast<const __half2*>(&w.scale[s]));
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      acc[0][c] += scale.x * (sum[c] - low * input.sums[s][c]);
      acc[1][c] += scale.y * (sum[2 + c] - high * input.sums[s][c]);
    }
  }
}

// What a lane needs of a part's weights, found once.
struct StepWeights {
  int units, stage_units, groups, shift, scales_at, zeros_at;
  bool has_zeros;
  uint32_t middle;  // as zero points lie, where there are none in memory
};
template <Form F>
__device__ __forceinline__ StepWeights find_weights(const StepPart& part, int lane) {
  StepWeights w;
  w.units = part.units;
  w.stage_units = part.stage_units;
  w.groups = part.groups;
  w.shift = part.group_shift;
  // From the lane's codes on.
  w.scales_at = w.stage_units * 512 - lane * 16 + lane / 4 * 4;
  w.zeros_at = w.stage_units * 512 - lane * 16 + part.stage_groups * 32 + lane / 4 * (F == Form::kQ4 ? 1 : 2);
  const Weight& like = part.gemv.jobs[0].weight;
  w.has_zeros = like.zeros != nullptr;
  w.middle = static_cast<uint32_t>(like.middle) * (F == Form::kQ4 ? 0x11 : 0x101);
  return w;
}

// Where a lane reads a stage: its codes, and a panel's groups from the stage's first on.
struct StageView {
  const unsigned char *codes, *scales, *zeros;
};
template <Form F, int kSteps>
__device__ __forceinline__ StageView view_stage(const StepWeights& w, const unsigned char* codes, int item,
                                                int first) {
  constexpr int kScales = UnitWeights<F, kSteps>::kScales;
  StageView view{codes, codes + w.scales_at, codes + w.zeros_at};
  // Zero points begin at a multiple of 16 bytes.
  if (F == Form::kQ4) view.zeros += (item * w.groups + (first * kScales >> w.shift)) % 2 * kGroupZeros;
  return view;
}
template <Form F, int kSteps>
__device__ __forceinline__ void load_group(UnitWeights<F, kSteps>& u, int s, const StepWeights& w,
                                           const StageView& view, int group) {
  u.scale[s] = *reinterpret_cast<const uint32_t*>(view.scales + group * 32);
  u.zero[s] = w.middle;
  if (w.has_zeros)
    u.zero[s] = F == Form::kQ4 ? view.zeros[group * kGroupZeros]
                               : *reinterpret_cast<const uint16_t*>(view.zeros + group * 2 * kGroupZeros);
}

// Units of a whole stage that are a warp's (own_input()).
inline constexpr int kOwnUnits = kStageUnits / kStepWarps;

// Whether a whole stage's groups lie at even distances for a warp's units.
__device__ __forceinline__ bool is_even(const StepWeights& w) {
  return w.shift >= 30 || (kStepWarps >> w.shift) << w.shift == kStepWarps;
}

// acc += a warp's products of a whole stage, from unit `first` of a panel on.
template <Form F, int kSteps, int kColumns>
__device__ __forceinline__ void multiply_whole_stage(const StepWeights& w, const StageView& view, int first,
                                                     int warp, const InputView& input,
                                                     float (&acc)[2][kColumns]) {
  constexpr int kScales = UnitWeights<F, kSteps>::kScales;
  const int stride = kStepWarps * kScales >> w.shift;
  UnitWeights<F, kSteps> u[kOwnUnits];
  UnitInput<F, kSteps, kColumns> x[kOwnUnits];
#pragma unroll
  for (int i = 0; i < kOwnUnits; ++i) {
    u[i].codes = *reinterpret_cast<const uint4*>(view.codes + (warp + i * kStepWarps) * 512);
    load_input(x[i], input, first + warp + i * kStepWarps);
#pragma unroll
    for (int s = 0; s < kScales; ++s)
      load_group(u[i], s, w, view, (warp * kScales + s >> w.shift) + i * stride);
  }
#pragma unroll
  for (int i = 0; i < kOwnUnits; ++i) multiply_unit(u[i], x[i], acc);
}

// The same of any stage.
template <Form F, int kSteps, int kColumns>
__device__ __forceinline__ void multiply_stage(const StepWeights& w, const StageView& view, int first,
                                               int warp, const InputView& input, float (&acc)[2][kColumns]) {
  constexpr int kScales = UnitWeights<F, kSteps>::kScales, kTogether = 2;
  const int units = min(w.stage_units, w.units - first), first_group = first * kScales >> w.shift;
#pragma unroll 1
  for (int begin = warp; begin < units; begin += kTogether * kStepWarps) {
    UnitWeights<F, kSteps> u[kTogether];
    UnitInput<F, kSteps, kColumns> x[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const bool there = begin + i * kStepWarps < units;
      const int unit = there ? begin + i * kStepWarps : begin;
      u[i].codes = *reinterpret_cast<const uint4*>(view.codes + unit * 512);
      load_input(x[i], input, first + unit);
#pragma unroll
      for (int s = 0; s < kScales; ++s) {
        // Behind the last input there may be steps without a group; their codes and inputs are zeros.
        load_group(u[i], s, w, view,
                   min((first + unit) * kScales + s >> w.shift, w.groups - 1) - first_group);
        if (!there) u[i].scale[s] = 0;
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) multiply_unit(u[i], x[i], acc);
  }
}

}  // namespace
}  // namespace nibble::cuda
