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

// What a thread finishes of a batch of panels: an output of one of them. Found before the input is there.
struct StepOutput {
  int at = 0;                     // of its sums
  void* to = nullptr;             // null: nothing
  const float* before = nullptr;  // what it is added to; the word that lay there
  uint32_t word = 0;
  bool there = false;     // there are fewer than the panel's
  bool is_input = false;  // of a linear, in fp16
  Finish finish = Finish::kStore;
  Addends addends;
};
__device__ __forceinline__ StepOutput find_output(const StepPart& part, int batch, int thread, uint32_t set) {
  const Gemv& gemv = part.gemv;
  StepOutput output;
  if (thread >= part.together * gemv.rows * 16) return output;
  const int line = thread / 16, which = gemv.rows == 1 ? line : line / gemv.rows,
            row = line - which * gemv.rows, item = batch + which * part.blocks;
  if (item >= part.items) return output;
  const GemvJob& job = fresh(gemv.jobs[job_of(gemv, item)]);
  const int n = (item - job.first_item) * 16 + thread % 16;
  output.at = ((part.sides * kStepWarps * which) * gemv.rows + row) * 16 + n % 16;
  output.there = n < job.weight.n;
  output.is_input = !job.y;
  output.finish = job.finish;
  if (output.there) load_biases(output.addends, job, n);
  if (output.is_input) {
    if (n < (job.weight.n + 7) / 8 * 8)
      output.to = in_set(static_cast<__half*>(job.out), part.sends, set) + row * job.ld_out + n;
  } else if (output.there) {
    output.to = in_set(job.y, part.sends, set) + row * job.ldy + n;
    if (job.finish == Finish::kAdd) {
      output.before = in_set(part.before, part.awaits_before, set) + row * job.ldy + n;
      output.word = read_word(output.before);
    }
  }
  return output;
}

// By all lanes of a warp: an output, with the sums that the warps left, kStepWarps of them `apart`.
template <Form F>
__device__ __forceinline__ void send_output(const StepPart& part, StepOutput& output, const float* sums,
                                            int apart) {
  float value = 0;
  if (output.there) {
    if (output.before) output.addends.before = number_of(output.word, output.before, part.awaits_before);
    value = finished<F>(part.gemv.jobs[0], output.finish, output.addends, [&](bool partner) {
      const float* from = sums + output.at + (partner ? kStepWarps * apart : 0);
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kStepWarps; ++w) sum += from[w * apart];
      return sum;
    });
  }
  if (__any_sync(0xffffffffu, output.is_input))
    send_input(static_cast<__half*>(output.to), value, output.is_input && output.to);
  if (!output.is_input && output.to) send_word(output.to, __float_as_uint(value));
}

// The input of a part, before its panels.
template <Form F, int kSteps>
__device__ __forceinline__ void stage_input(const StepCall& call, const StepPart& part, StepShared& shared,
                                            const StepRoom& room, StepPlace& at, const StepInput& input,
                                            bool needed, int thread) {
  const Gemv& gemv = part.gemv;
  const int k = gemv.jobs[0].weight.k;
  if (gemv.x) {
    if (needed)
      stage_stored<F, kSteps>(gemv, in_set(static_cast<const __half*>(gemv.x), part.awaits_input, at.set),
                              part.awaits_input, k, input, thread);
    return;
  }
  const RingPlace first = at.ring;
  const float* norms[2] = {nullptr, nullptr};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (i >= part.norm_stages) continue;
    norms[i] = reinterpret_cast<const float*>(room.ring + at.ring.stage * kStageBytes);
    shared.full[at.ring.stage].wait(at.ring.parity);
    at.ring.next(call.stages);
  }
  if (needed)
    stage_normed<F, kSteps>(gemv, in_set(gemv.h, part.awaits_input, at.set), part.awaits_input, k, norms[0],
                            norms[1], input, thread, reinterpret_cast<float2*>(room.room));
  __syncwarp();
  if (thread % 32 == 0) {
    RingPlace stage = first;
    for (int i = 0; i < part.norm_stages; ++i, stage.next(call.stages)) shared.empty[stage.stage].arrive();
  }
}

template <Form F, int kSteps, int kColumns>
__device__ __forceinline__ void multiply_items(const StepCall& call, const StepPart& any_part,
                                               StepShared& shared, const StepRoom& room, StepPlace& at) {
  const StepPart& part = fresh(any_part);
  const int thread = fresh_thread(), lane = thread % 32, warp = thread / 32,
            own = static_cast<int>(blockIdx.x) - part.first_block;
  const int columns = part.gemv.rows;
  const StepInput input{reinterpret_cast<__half*>(room.x), reinterpret_cast<float*>(room.x + part.sums_at),
                        part.line};
  StepOutput output = find_output(part, own, thread, at.set);
  const StepWeights weights = find_weights<F>(part, lane);
  const int items = part.items, sides = part.sides, blocks = part.blocks, together = part.together;
  const unsigned char* codes = room.ring + lane * 16;
  const InputView x{input.x + min(lane / 4, columns - 1) * input.stride + lane % 4 * 8,
                    input.sums + lane % 4 * 2};
  const bool even = is_even(weights) && weights.stage_units == kStageUnits;
  const int column = lane % 4 * 2, own_sums = warp * columns * 16 + lane / 4 + column * 16;  // this lane's
  if (!part.keeps_input) {
    stage_input<F, kSteps>(call, part, shared, room, at, input, own < part.items || part.shares_input,
                           thread);
    __syncwarp();
  }
  if (own >= part.items) return sync_step();  // what it wrote of shared memory others write next
#pragma unroll 1
  for (int batch = own; batch < items; batch += together * blocks) {
    if (batch != own) output = find_output(part, batch, thread, at.set);
    float* sums = room.sums + at.half;
    float* to = sums + own_sums;
    // The sides of one panel after the other.
    int item = batch, side = 0, left = together;
#pragma unroll 1
    do {
      float acc[2][kColumns] = {};
#pragma unroll 1
      for (int first = 0; first < weights.units; first += weights.stage_units) {
        shared.full[at.ring.stage].wait(at.ring.parity);
        const StageView view =
            view_stage<F, kSteps>(weights, codes + at.ring.stage * kStageBytes, item, first);
        if (even && weights.units - first >= kStageUnits) {
          multiply_whole_stage<F, kSteps, kColumns>(weights, view, first, warp, x, acc);
        } else {
          multiply_stage<F, kSteps, kColumns>(weights, view, first, warp, x, acc);
        }
        leave_stage(shared, at.ring, call.stages, lane);
      }
      constexpr float kHigh = F == Form::kQ4 ? kLowUnit<F> / kHighUnit<F> : 1.0f;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (column + c < columns) {
          to[c * 16] = acc[0][c];
          to[c * 16 + 8] = acc[1][c] * kHigh;
        }
      }
      to += kStepWarps * columns * 16;
      if (++side == sides) {
        side = 0;
        item += blocks;
        --left;
      }
    } while (left > 0 && item < items);
    sync_step();
    if (warp * 32 < together * columns * 16) send_output<F>(part, output, sums, columns * 16);
    at.half = kSumFloats - at.half;
  }
}

// kColumns: of a lane that count; one where there is one row.
template <int kColumns>
__device__ __forceinline__ void multiply(const StepCall& call, const StepPart& part, StepShared& shared,
                                         const StepRoom& room, StepPlace& at) {
  if (!part.narrow) {
    if (part.steps == 2) return multiply_items<Form::kQ8, 2, kColumns>(call, part, shared, room, at);
    return multiply_items<Form::kQ8, 1, kColumns>(call, part, shared, room, at);
  }
  if (part.steps == 4) return multiply_items<Form::kQ4, 4, kColumns>(call, part, shared, room, at);
  if (part.steps == 2) return multiply_items<Form::kQ4, 2, kColumns>(call, part, shared, room, at);
  multiply_items<Form::kQ4, 1, kColumns>(call, part, shared, room, at);
}

}  // namespace
}  // namespace nibble::cuda
