// Programs of a decoding step: what its kernel takes, and how parts are dealt out to the blocks.
#include <algorithm>
#include <vector>

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step.h"
#include "kernels/cuda/step_part.h"

namespace nibble::cuda {
namespace {

// Bytes of shared memory for inputs, then their sums.
int input_bytes(int k, int rows) { return rows * static_cast<int>(input_stride(k) + 16) * 2; }
int input_sum_bytes(int k, int steps) { return static_cast<int>(input_stride(k)) / (16 * steps) * 32; }

}  // namespace

struct StepProgram::Parts {
  std::vector<StepPart> parts;
  DeviceMemory memory, arrivals;
  int x_bytes = static_cast<int>(round_up(kStepAttentionBytes, 128));
};

StepProgram::StepProgram() : parts_(std::make_unique<Parts>()) {}
StepProgram::StepProgram(StepProgram&& other) noexcept = default;
StepProgram& StepProgram::operator=(StepProgram&& other) noexcept = default;
StepProgram::~StepProgram() = default;

bool StepProgram::takes(const Gemv& call) {
  const Weight& w = call.jobs[0].weight;
  if (device().major < 9 || call.parts != 1 || call.rows > kMaxStepColumns || !w.packed() || w.order ||
      w.float_scales || (w.kind == WeightKind::kQ4 && w.wide_zeros) ||
      (w.zeros && w.kind == WeightKind::kQ8 && !w.wide_zeros))
    return false;
  // Jobs differ in where they lie only, and panels' zero points begin where their items say.
  int items = 0;
  for (int j = 0; j < call.n_jobs; ++j) {
    for (const Weight* other : {&call.jobs[j].weight, &call.jobs[j].partner}) {
      if (other->n > 0 && (!same_form(*other, w) || !other->zeros != !w.zeros || other->middle != w.middle))
        return false;
    }
    if (items % 2 != 0 && w.groups() % 2 != 0 && w.zeros) return false;
    items += (call.jobs[j].weight.n + 15) / 16;
  }
  const int shared_inputs = 16 * steps_of(w);  // a group is one of these, or 2, 4, 8, …
  if (w.group < w.k &&
      (w.group % shared_inputs != 0 || (w.group / shared_inputs & (w.group / shared_inputs - 1)) != 0))
    return false;
  if (!call.x && (w.k % 4 != 0 || w.k > kMaxNormed)) return false;
  return input_bytes(w.k, call.rows) + input_sum_bytes(w.k, steps_of(w)) + step_shared_bytes() +
             kLeastStages * kStageBytes <=
         static_cast<size_t>(device().shared_bytes_per_block);
}

bool StepProgram::takes(const Attention& call) {
  const Heads& heads = call.heads;
  return device().major >= 9 && call.rope && call.cache.kind == CacheKind::kF16 && call.parts == 1 &&
         call.cache.context <= kMaxStepKeys && heads.head_dim % 8 == 0 && heads.head_dim <= kMaxStepDim &&
         call.places.rows <= kMaxStepColumns;
}

void StepProgram::add(Gemv call, bool beside) {
  expect(takes(call));
  std::vector<StepPart>& parts = parts_->parts;
  const Weight& w = call.jobs[0].weight;
  StepPart part = {};
  part.kind = StepPart::kGemv;
  part.blocks = device().multiprocessors;
  part.after[0] = static_cast<int>(parts.size()) - 1;
  part.after[1] = -1;
  part.keeps_input = beside;
  const bool narrow = w.kind == WeightKind::kQ4;
  part.narrow = narrow;
  part.steps = steps_of(w);
  part.sides = call.jobs[0].finish == Finish::kSwiGlu ? 2 : 1;
  for (int j = 0; j < call.n_jobs; ++j) {
    call.jobs[j].first_item = part.items;
    part.items += (call.jobs[j].weight.n + 15) / 16;
  }
  const int width = narrow ? 64 : 32;
  part.units = (w.k + width - 1) / width;
  // As many units as fit with their scales and zero points, evenly.
  const int scales = width / 16 / part.steps, zeros = narrow ? kGroupZeros : 2 * kGroupZeros;
  const int most = (kStageBytes - 16) / (512 + scales * (32 + zeros));
  const int pieces = (part.units + std::min(most, kStageUnits) - 1) / std::min(most, kStageUnits);
  part.stage_units = (part.units + pieces - 1) / pieces;
  part.stage_groups = part.stage_units * scales;
  part.groups = w.groups();
  while (w.group < w.k && 16 * part.steps << part.group_shift < w.group) ++part.group_shift;
  if (w.group >= w.k) part.group_shift = 30;
  part.norm_stages = call.x || beside ? 0 : call.norm.bias ? 2 : 1;
  part.together =
      std::min(kSumFloats / (part.sides * kStepWarps * call.rows * 16), kStepThreads / 16 / call.rows);
  expect(part.together >= 1);
  part.sums_at = input_bytes(w.k, call.rows);
  part.gemv = call;
  parts_->x_bytes = std::max(
      parts_->x_bytes, static_cast<int>(round_up(part.sums_at + input_sum_bytes(w.k, part.steps), 128)));
  if (beside) {
    // The blocks that attention does not need, and no more of them than shorten the longest share of panels.
    StepPart& attention = parts.back();
    parts[parts.size() - 2].shares_input = true;
    const int all = part.blocks, needed = std::min(attention.items, all / 4);
    const int rounds = (part.items + all - needed - 1) / (all - needed);
    attention.blocks = all - (part.items + rounds - 1) / rounds;
    part.first_block = attention.blocks;
    part.blocks = all - attention.blocks;
    part.after[0] = -1;  // its input is there
  }
  if (!parts.empty()) {
    const StepPart& last = parts.back();
    if (!beside && last.keeps_input) {  // and what ran beside it
      part.after[1] = static_cast<int>(parts.size()) - 2;
      part.arrivals[1] = parts[parts.size() - 2].blocks;
    }
    if (!beside) part.arrivals[0] = last.blocks;
  }
  parts.push_back(part);
}

void StepProgram::add(const Attention& call) {
  expect(takes(call) && !parts_->parts.empty());
  StepPart part = {};
  part.kind = StepPart::kAttention;
  part.blocks = device().multiprocessors;
  part.after[0] = static_cast<int>(parts_->parts.size()) - 1;
  part.after[1] = -1;
  part.arrivals[0] = parts_->parts.back().blocks;
  part.items = call.heads.n_heads * call.places.rows;
  part.attention = call;
  parts_->parts.push_back(part);
}

void StepProgram::upload(Queue& queue) {
  const size_t bytes = parts_->parts.size() * sizeof(StepPart);
  parts_->memory = DeviceMemory(bytes);
  parts_->arrivals = DeviceMemory((parts_->parts.size() + 1) * sizeof(int));
  queue.to_device(parts_->memory.as<void>(), parts_->parts.data(), bytes);
  queue.wait();
}

void StepProgram::run(Queue& queue, bool overlap) const {
  StepCall call;
  call.program = parts_->memory.as<StepPart>();
  call.n_parts = static_cast<int>(parts_->parts.size());
  call.arrivals = parts_->arrivals.as<int>();
  call.x_bytes = parts_->x_bytes;
  const int fixed = static_cast<int>(step_shared_bytes()) + call.x_bytes;
  call.stages = std::min(kMaxStages, (device().shared_bytes_per_block - fixed) / kStageBytes);
  run_step(queue, call, overlap);
}

}  // namespace nibble::cuda
