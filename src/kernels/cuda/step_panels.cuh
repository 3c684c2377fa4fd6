// A gemv() as a part of a step (step.cu): this block's panels of 16 outputs.
#pragma once

#include "kernels/cuda/step_gemv.cuh"

namespace nibble::cuda {
namespace {

// What a block has in shared memory.
struct StepRoom {
  unsigned char *x, *ring;
  float *sums, *room;
};

// Where it stands.
struct StepPlace {
  RingPlace ring;
  int half = 0;  // of the sums: where the next batch's go
  uint32_t set;  // of messages: bytes from the first
};

// What the warps need of a part's weights, found once.
struct StepWeights {
  int units, stage_units, groups, scales_at, zeros_at, stages;
  bool has_zeros;
  float middle;
};
template <Form F>
__device__ __forceinline__ StepWeights find_weights(const StepPart& part, int stages, int lane) {
  StepWeights w;
  w.units = part.units;
  w.stage_units = part.stage_units;
  w.groups = part.groups;
  w.stages = stages;
  // From the lane's codes on.
  w.scales_at = w.stage_units * 512 - lane * 16 + lane / 4 * 4;
  w.zeros_at = w.stage_units * 512 - lane * 16 + part.stage_groups * 32 + lane / 4 * (F == Form::kQ4 ? 1 : 2);
  const Weight& like = part.gemv.jobs[0].weight;
  w.has_zeros = like.zeros != nullptr;
  w.middle = static_cast<float>(like.middle);
  return w;
}

// acc: the products of a panel.
template <Form F, int kSteps>
__device__ __forceinline__ void multiply_panel(const StepWeights& w, int item, StageView& view,
                                               StepShared& shared, const unsigned char* codes, int lane,
                                               int warp, RingPlace& place, float (&acc)[4]) {
  constexpr int kScales = kUnitInputs<F> / 16 / kSteps;
#pragma unroll 1
  for (int first = 0; first < w.units; first += w.stage_units) {
    view.codes = codes + place.stage * kStageBytes;
    view.scales = view.codes + w.scales_at;
    view.zeros = view.codes + w.zeros_at;
    view.first_group = first * kScales >> view.shift;
    if (F == Form::kQ4) view.zeros += (item * w.groups + view.first_group) % 2 * kGroupZeros;
    shared.full[place.stage].wait(place.parity);
    multiply_stage<F, kSteps>(view, first, min(w.stage_units, w.units - first), warp, w.has_zeros, w.middle,
                              acc);
    leave_stage(shared, place, w.stages, lane);
  }
}

// What a thread finishes of a batch of panels: an output of one of them, and what it needs besides.
struct StepOutput {
  const GemvJob* job = nullptr;  // null: nothing
  int which = 0, row = 0, n = 0;
  bool there = false;  // there are fewer than the panel's
  Addends addends;
};
__device__ __forceinline__ const float* before_of(const StepPart& part, const StepOutput& output,
                                                  uint32_t set) {
  return in_set(part.before, part.awaits_before, set) + output.row * output.job->ldy + output.n;
}
__device__ __forceinline__ StepOutput find_output(const StepPart& part, int batch, int thread) {
  const Gemv& gemv = part.gemv;
  StepOutput output;
  if (thread >= part.together * part.gemv.rows * 16) return output;
  const int line = thread / 16;
  output.which = gemv.rows == 1 ? line : line / gemv.rows;
  output.row = line - output.which * gemv.rows;
  const int item = batch + output.which * part.blocks;
  if (item >= part.items) return output;
  const GemvJob& job = gemv.jobs[job_of(gemv, item)];
  output.n = (item - job.first_item) * 16 + thread % 16;
  output.there = output.n < job.weight.n;
  output.job = &job;
  if (output.there) load_biases(output.addends, job, output.n);
  return output;
}

// By all lanes of a warp: an output whose sums the warps left at `from`, kStepWarps of them `apart`.
template <Form F>
__device__ __forceinline__ void send_output(const StepPart& part, StepOutput& output, uint32_t before,
                                            const float* from, int apart, uint32_t set) {
  float value = 0;
  const bool there = output.job && output.there;
  if (there) {
    const GemvJob& job = *output.job;
    if (job.finish == Finish::kAdd)
      output.addends.before = number_of(before, before_of(part, output, set), part.awaits_before);
    value = finished<F>(job, output.addends, [&](bool partner) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kStepWarps; ++w) sum += from[((partner ? kStepWarps : 0) + w) * apart];
      return sum;
    });
  }
  if (part.makes_inputs) {
    __half* to = nullptr;
    bool line = false;
    if (output.job) {
      const GemvJob& job = *output.job;
      to = in_set(static_cast<__half*>(job.out), part.sends, set) + output.row * job.ld_out + output.n;
      line = output.n < (job.weight.n + 7) / 8 * 8;
    }
    send_pair(to, value, line);
  } else if (there) {
    const GemvJob& job = *output.job;
    send_word(in_set(job.y, part.sends, set) + output.row * job.ldy + output.n, __float_as_uint(value));
  }
}

template <Form F, int kSteps>
__device__ __forceinline__ void multiply_items(const StepCall& call, const StepPart& any_part,
                                               StepShared& shared, const StepRoom& room, StepPlace& at) {
  const StepPart& part = fresh(any_part);
  const int thread = fresh_thread(), lane = thread % 32, warp = thread / 32,
            own = static_cast<int>(blockIdx.x) - part.first_block;
  const Gemv& gemv = part.gemv;
  const int columns = gemv.rows, item_size = part.sides * kStepWarps * columns * 16,
            k = gemv.jobs[0].weight.k;
  const StepInput input{reinterpret_cast<__half*>(room.x), reinterpret_cast<float*>(room.x + part.sums_at),
                        (k + 63) / 64 * 64 + 16};
  StageView view;
  view.x = input.x + min(lane / 4, columns - 1) * input.stride + lane % 4 * 8;
  view.x_sums = input.sums + lane % 4 * 2;
  view.last_group = part.groups - 1;
  view.shift = part.group_shift;
  RingPlace& place = at.ring;
  StepOutput output = find_output(part, own, thread);
  if (!part.keeps_input) {
    const bool needed = own < part.items || part.shares_input;
    if (gemv.x) {
      if (needed)
        stage_stored<F, kSteps>(gemv, in_set(static_cast<const __half*>(gemv.x), part.awaits_input, at.set),
                                part.awaits_input, k, input, thread);
    } else {
      const RingPlace first = place;
      const float* norms[2] = {nullptr, nullptr};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i >= part.norm_stages) continue;
        norms[i] = reinterpret_cast<const float*>(room.ring + place.stage * kStageBytes);
        shared.full[place.stage].wait(place.parity);
        place.next(call.stages);
      }
      if (needed)
        stage_normed<F, kSteps>(gemv, in_set(gemv.h, part.awaits_input, at.set), part.awaits_input, k,
                                norms[0], norms[1], input, thread, reinterpret_cast<float2*>(room.room));
      __syncwarp();
      if (lane == 0) {
        RingPlace done = first;
        for (int i = 0; i < part.norm_stages; ++i, done.next(call.stages)) shared.empty[done.stage].arrive();
      }
    }
    __syncwarp();
  }
  if (own >= part.items) return sync_step();  // what it wrote of shared memory others write next
  const StepWeights weights = find_weights<F>(part, call.stages, lane);
  const int items = part.items, sides = part.sides, blocks = part.blocks, together = part.together;
  const unsigned char* codes = room.ring + lane * 16;
  const int column = lane % 4 * 2;
  const int own_sums = warp * columns * 16 + lane / 4 + column * 16;  // this lane's
#pragma unroll 1
  for (int batch = own; batch < items; batch += together * blocks) {
    if (batch != own) output = find_output(part, batch, thread);
    uint32_t before = 0;
    if (output.job && output.there && output.job->finish == Finish::kAdd)
      before = read_word(before_of(part, output, at.set));
    float* half = room.sums + at.half;
    float* to = half + own_sums;
    int held = 0;
#pragma unroll 1
    for (int item = batch; held < together && item < items; item += blocks, ++held) {
#pragma unroll 1
      for (int side = 0; side < sides; ++side, to += kStepWarps * columns * 16) {
        float acc[4] = {};
        multiply_panel<F, kSteps>(weights, item, view, shared, codes, lane, warp, place, acc);
        constexpr float kHigh = F == Form::kQ4 ? kLowUnit<F> / kHighUnit<F> : 1.0f;
        if (column < columns) {
          to[0] = acc[0];
          to[8] = acc[2] * kHigh;
        }
        if (column + 1 < columns) {
          to[16] = acc[1];
          to[24] = acc[3] * kHigh;
        }
      }
    }
    sync_step();
    if (warp * 32 < together * columns * 16)
      send_output<F>(part, output, before,
                     half + output.which * item_size + output.row * 16 + output.n % 16, columns * 16, at.set);
    at.half = kSumFloats - at.half;
  }
}

__device__ __forceinline__ void multiply(const StepCall& call, const StepPart& part, StepShared& shared,
                                         const StepRoom& room, StepPlace& at) {
  if (!part.narrow) {
    if (part.steps == 2) return multiply_items<Form::kQ8, 2>(call, part, shared, room, at);
    return multiply_items<Form::kQ8, 1>(call, part, shared, room, at);
  }
  if (part.steps == 4) return multiply_items<Form::kQ4, 4>(call, part, shared, room, at);
  if (part.steps == 2) return multiply_items<Form::kQ4, 2>(call, part, shared, room, at);
  multiply_items<Form::kQ4, 1>(call, part, shared, room, at);
}

}  // namespace
}  // namespace nibble::cuda
