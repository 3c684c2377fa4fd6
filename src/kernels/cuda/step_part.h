// A step's program as it lies on the card, and what its kernel has room for: shared by the host, which writes
// it (step_program.cpp), and the kernel (step.cu).
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {

inline constexpr int kStepWarps = 8,
                     kStepThreads = kStepWarps * 32;                // that compute; one more asks for weights
inline constexpr int kMaxStepColumns = 4;                           // rows that a program takes
inline constexpr int kStageUnits = 4 * kStepWarps;                  // of 512 bytes, in a stage at most
inline constexpr int kStageBytes = kStageUnits * 512 + 1024 + 528;  // codes, scales, zero points
inline constexpr int kMaxStages = 16, kLeastStages = 4;
inline constexpr int kPartSlots = 8, kPartsAhead = 3;  // parts in shared memory; asked for before their turn
inline constexpr int kGroupZeros = 8;    // bytes of a group's zero points in nibbles; twice as many in bytes
inline constexpr int kSumFloats = 2048;  // sums of a batch of panels; there are two
inline constexpr int kMaxNormed = 4096;  // inputs of a norm, held in registers
inline constexpr int kMaxStepKeys = 2 * kSumFloats;                   // of attention, whose scores do
inline constexpr int kMaxStepDim = 128;                               // of a head
inline constexpr int kRoomFloats = 4 * kStepWarps * kMaxStepColumns;  // for totals over all threads
// Of attention besides scores: query, key and value, cosines and sines, records of the warps.
inline constexpr int kRecordFloats = kMaxStepDim + 4;
inline constexpr int kStepAttentionBytes = kMaxStepDim * (4 + 2 + 2 + 4) + kStepWarps * kRecordFloats * 4;

// A part of a step: a gemv() or attention, by the blocks first_block … of the grid.
struct alignas(16) StepPart {
  enum Kind : int { kGemv, kAttention };
  Kind kind;
  int first_block, blocks;
  // Whether the input, the outputs and what they are added to are messages: then their addresses are those of
  // the first set.
  bool awaits_input, sends, awaits_before;
  // gemv()
  const float* before;             // of kAdd, as its job's y
  bool keeps_input, shares_input;  // that of the part two before; the other side of it
  bool narrow;                     // codes of 4 bits
  int steps;                       // products of 16 inputs that share a scale
  int items, sides;                // panels of all jobs, rows' heads; two where there is a partner
  int units, stage_units, groups, stage_groups;  // of a panel; of a stage
  int group_shift;                               // of a group: steps that share a scale to its power of two
  int norm_stages;                               // that hold the norm's weight and bias
  int line, sums_at;                             // of the input in shared memory: elements of a row; bytes
  int together;                                  // panels whose sums are put together at once
  union {
    Gemv gemv;
    Attention attention;
  };
};

// What parts tell each other lies in messages of their own for each part, of words that are kNothing until
// they are written. A step reads and writes one of two sets and makes the other one nothing again, for the
// next step: kernels end before the next one reads.
inline constexpr uint32_t kNothing = 0xffffffffu;  // arithmetic's NaNs are 0x7fffffff, of fp16 0x7fff

struct StepCall {
  const StepPart* program;
  int n_parts, rows;
  unsigned char* messages;  // two sets
  uint32_t set_bytes;       // a multiple of 16
  int* turns;               // the set of this step; a count of blocks that have ended
  int x_bytes;              // of shared memory, for inputs and their sums
  int stages;
};
void run_step(Queue& queue, const StepCall& call, bool overlap);
// Bytes of shared memory besides inputs and stages.
size_t step_shared_bytes();

}  // namespace nibble::cuda
