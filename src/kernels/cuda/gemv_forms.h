// What gemv.cpp shares with the kernel's instances, one file a form of weights.
#pragma once

#include "kernels/cuda/ops.h"

namespace nibble::cuda {

inline constexpr int kMaxThreads = 512;
inline constexpr int kGemvRegisters = 80;  // a thread: more would leave too few warps at work

// Products of 16 inputs that share a scale wherever they lie.
int steps_of(const Weight& weight);

struct GemvShape {
  int items;    // panels of all jobs
  int warps;    // of a block that share a panel; with a partner as many again take the partner's
  int threads;  // of a block
  int steps;    // products of 16 inputs that share a scale wherever they lie
  bool wide;    // float32 scales, or zero points of a byte where the form's take a nibble
};
void gemv_f16(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap);
void gemv_q4(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap);
void gemv_q8(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap);

}  // namespace nibble::cuda
