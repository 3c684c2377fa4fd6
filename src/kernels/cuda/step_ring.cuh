// The weights of a step's parts on their way into shared memory: one thread asks for them, part after part,
// as far ahead as there is room, and the warps that compute follow.
#pragma once

#include "kernels/cuda/gemv_jobs.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step_part.h"

namespace nibble::cuda {
namespace {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// A barrier in shared memory that counts arrivals and bytes (mbarrier of PTX).
struct Gate {
  uint64_t state;
  __device__ __forceinline__ void init(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(count)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state)) : "memory");
  }
  __device__ __forceinline__ void expect_bytes(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)),
                 "r"(bytes)
                 : "memory");
  }
  // Until the phase of this parity has ended.
  __device__ __forceinline__ void wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(shared_address(&state)),
        "r"(parity)
        : "memory");
  }
};

// From the card's memory, both 16-byte aligned; `gate` counts the bytes.
__device__ __forceinline__ void copy_in(void* to, const void* from, uint32_t bytes, Gate& gate) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&gate.state))
      : "memory");
}

// The same of what is read once a step: it gives way to everything else in the card's cache.
__device__ __forceinline__ void copy_in_once(void* to, const void* from, uint32_t bytes, Gate& gate,
                                             uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], "
      "%4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&gate.state)), "l"(policy)
      : "memory");
}

struct StepShared {
  Gate full[kMaxStages], empty[kMaxStages];  // of stages
  Gate part_here[kPartSlots], part_done[kPartSlots];
  StepPart parts[kPartSlots];
};

// By one thread, before any other uses them.
__device__ __forceinline__ void open_gates(StepShared& shared, int stages) {
  for (int i = 0; i < stages; ++i) {
    shared.full[i].init(1);
    shared.empty[i].init(kStepWarps);
  }
  for (int i = 0; i < kPartSlots; ++i) {
    shared.part_here[i].init(1);
    shared.part_done[i].init(kStepWarps);
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Where the ring stands, for whoever goes through it.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// By a warp that has read its stage.
__device__ __forceinline__ void leave_stage(StepShared& shared, RingPlace& place, int stages, int lane) {
  __syncwarp();
  if (lane == 0) shared.empty[place.stage].arrive();
  place.next(stages);
}

// By the thread that asks: one piece of memory as the next stage.
__device__ __forceinline__ void ask_for_stage(const void* from, uint32_t bytes, StepShared& shared,
                                              unsigned char* ring, int stages, RingPlace& place) {
  Gate& gate = shared.full[place.stage];
  shared.empty[place.stage].wait(place.parity ^ 1);
  gate.expect_bytes(bytes);
  copy_in(ring + place.stage * kStageBytes, from, bytes, gate);
  place.next(stages);
}

// What a part's panels of this block need, stage by stage: the norm's weight and bias; codes of units, then
// their groups' scales and zero points.
__device__ __forceinline__ void ask_for_panels(const StepPart& part, int own, StepShared& shared,
                                               unsigned char* ring, int stages, RingPlace& place) {
  uint64_t once;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
  const bool narrow = part.narrow;
  const int scales_each = (narrow ? 4 : 2) / part.steps, shift = part.group_shift,
            zero_bytes = narrow ? kGroupZeros : 2 * kGroupZeros, all = part.units,
            of_stage = part.stage_units, groups = part.groups, items = part.items, blocks = part.blocks,
            sides = part.sides, scales_at = of_stage * 512, zeros_at = scales_at + part.stage_groups * 32;
  for (int i = 0; i < part.norm_stages; ++i)
    ask_for_stage(i == 0 ? part.gemv.norm.weight : part.gemv.norm.bias, part.gemv.jobs[0].weight.k * 4,
                  shared, ring, stages, place);
  for (int item = own; item < items; item += blocks) {
    const GemvJob& job = part.gemv.jobs[job_of(part.gemv, item)];
    const int panel = item - job.first_item;
    for (int side = 0; side < sides; ++side) {
      const Weight& w = side == 0 ? job.weight : job.partner;
      const char* codes = static_cast<const char*>(w.data) + int64_t{panel} * all * 512;
      const char* scales = static_cast<const char*>(w.scales) + int64_t{panel} * groups * 32;
      const uint8_t* zeros = w.zeros ? w.zeros + int64_t{panel} * groups * zero_bytes : nullptr;
      for (int first = 0; first < all; first += of_stage) {
        const int units = min(of_stage, all - first), group = first * scales_each >> shift,
                  n = min((first + units) * scales_each - 1 >> shift, groups - 1) - group + 1;
        unsigned char* stage = ring + place.stage * kStageBytes;
        Gate& gate = shared.full[place.stage];
        uintptr_t zeros_from = 0;
        uint32_t zeros_size = 0;
        if (zeros) {
          const uintptr_t from = reinterpret_cast<uintptr_t>(zeros) + group * zero_bytes;
          zeros_from = from & ~uintptr_t{15};
          zeros_size = static_cast<uint32_t>(((from + n * zero_bytes + 15) & ~uintptr_t{15}) - zeros_from);
        }
        shared.empty[place.stage].wait(place.parity ^ 1);
        gate.expect_bytes(units * 512 + n * 32 + zeros_size);
        copy_in_once(stage, codes + first * 512, units * 512, gate, once);
        copy_in_once(stage + scales_at, scales + group * 32, n * 32, gate, once);
        if (zeros_size > 0)
          copy_in_once(stage + zeros_at, reinterpret_cast<const void*>(zeros_from), zeros_size, gate, once);
        place.next(stages);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
