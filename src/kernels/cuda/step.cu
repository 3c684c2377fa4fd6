// A decoding step in one kernel (step.h). Its blocks, one a multiprocessor, go through the parts of a program
// together: warps that compute, and a thread that asks for the weights of later parts as far ahead as there
// is room, so that memory works while the blocks wait for each other. What a part makes it sends by words
// that are awaited one by one (step_message.cuh).
#include "kernels/cuda/step.h"

#include "kernels/cuda/step_attention.cuh"

namespace nibble::cuda {
namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// The thread that asks for everything.
__device__ __noinline__ void ask_for_weights(const StepPart* program, int n_parts, StepShared& shared,
                                             unsigned char* ring, int stages) {
  const auto ask_for_part = [&](int i) {
    Gate& gate = shared.part_here[i % kPartSlots];
    gate.expect_bytes(sizeof(StepPart));
    copy_in(&shared.parts[i % kPartSlots], program + i, sizeof(StepPart), gate);
  };
  for (int i = 0; i < min(n_parts, kPartsAhead); ++i) ask_for_part(i);
  RingPlace place;
  bool waited = false;
  for (int i = 0; i < n_parts; ++i) {
    const int later = i + kPartsAhead;
    if (later < n_parts) {
      if (later >= kPartSlots) shared.part_done[later % kPartSlots].wait((later / kPartSlots - 1) & 1);
      ask_for_part(later);
    }
    shared.part_here[i % kPartSlots].wait(i / kPartSlots & 1);
    const StepPart& part = shared.parts[i % kPartSlots];
    const int own = static_cast<int>(blockIdx.x) - part.first_block;
    if (own < 0 || own >= part.blocks) continue;
    if (part.kind == StepPart::kGemv) {
      ask_for_panels(part, own, shared, ring, stages, place);
    } else {
      if (!waited) wait_for_previous();  // places
      waited = true;
      ask_for_keys(part, own, shared, ring, stages, place);
    }
  }
}
#endif

template <int kColumns>
__global__ void __launch_bounds__(kStepThreads + 32, 1) step_kernel(const __grid_constant__ StepCall call) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char dynamic[];
  StepShared& shared = *reinterpret_cast<StepShared*>(dynamic);
  unsigned char* x = dynamic + (sizeof(StepShared) + 127) / 128 * 128;
  float* sums = reinterpret_cast<float*>(x + call.x_bytes);
  float* room = sums + 2 * kSumFloats;
  unsigned char* ring = reinterpret_cast<unsigned char*>(room + kRoomFloats);
  if (threadIdx.x == 0) open_gates(shared, call.stages);
  __syncthreads();
  let_next_start();
  if (threadIdx.x >= kStepThreads) {
    if (threadIdx.x == kStepThreads) ask_for_weights(call.program, call.n_parts, shared, ring, call.stages);
    return;
  }
  wait_for_previous();
  const StepRoom rooms{x, ring, sums, room};
  StepPlace place;
  const int turn = __ldcg(call.turns);
  place.set = turn * call.set_bytes;
  for (uint32_t i = (blockIdx.x * kStepThreads + threadIdx.x) * 16; i < call.set_bytes;
       i += gridDim.x * kStepThreads * 16)
    *reinterpret_cast<uint4*>(call.messages + (call.set_bytes - place.set) + i) =
        make_uint4(kNothing, kNothing, kNothing, kNothing);
#pragma unroll 1
  for (int i = 0; i < call.n_parts; ++i) {
    shared.part_here[i % kPartSlots].wait(i / kPartSlots & 1);
    const StepPart& part = shared.parts[i % kPartSlots];
    const int own = static_cast<int>(blockIdx.x) - part.first_block;
    if (own >= 0 && own < part.blocks) {
      if (part.kind == StepPart::kGemv) {
        multiply<kColumns>(call, part, shared, rooms, place);
      } else {
        attend_step(fresh(part), own, shared, ring, call.stages, place, sums, x);
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.part_done[i % kPartSlots].arrive();
  }
  // The next step's turn, once every block knows its own.
  sync_step();
  if (threadIdx.x == 0 && atomicAdd(call.turns + 1, 1) == static_cast<int>(gridDim.x) - 1) {
    call.turns[0] = 1 - turn;
    call.turns[1] = 0;
  }
#endif
}

}  // namespace

size_t step_shared_bytes() {
  return round_up(sizeof(StepShared), 128) + (2 * kSumFloats + kRoomFloats) * sizeof(float);
}

void run_step(Queue& queue, const StepCall& call, bool overlap) {
  static const bool raised = [] {
    for (const auto kernel : {step_kernel<1>, step_kernel<2>}) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 device().shared_bytes_per_block),
            "more shared memory");
    }
    return true;
  }();
  static_cast<void>(raised);
  const size_t shared = step_shared_bytes() + static_cast<size_t>(call.x_bytes + call.stages * kStageBytes);
  launch_blocks(queue, overlap, true, device().multiprocessors, kStepThreads + 32, shared,
                call.rows == 1 ? step_kernel<1> : step_kernel<2>, call);
}

}  // namespace nibble::cuda
