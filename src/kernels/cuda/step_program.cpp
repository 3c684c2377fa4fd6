// Programs of a decoding step: what its kernel takes, and how parts are dealt out to the blocks.
#include <algorithm>
#include <vector>

#include "kernels/cuda/gemv_forms.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/step.h"
#include "kernels/cuda/step_part.h"

namespace nibble::cuda {
namespace {

// Elements of an input's row in shared memory, such that reads of columns do not collide.
int input_line(int k) { return static_cast<int>(input_stride(k)) + 16; }
// Bytes of shared memory for inputs, then their sums.
int input_bytes(int k, int rows) { return rows * input_line(k) * 2; }
int input_sum_bytes(int k, int steps) { return static_cast<int>(input_stride(k)) / (16 * steps) * 32; }

// What a part writes for later ones, and the caller's memory that it stands for.
struct Message {
  const char *begin, *end;
  bool read = false;
  int64_t at = 0;  // in a set
};
// Rows of numbers in the caller's memory.
struct Area {
  const char *begin, *end;
};
Area area_of(const void* first, int rows, int64_t ld, int64_t width, int64_t bytes_each) {
  const char* begin = static_cast<const char*>(first);
  return {begin, begin + ((rows - 1) * ld + width) * bytes_each};
}
constexpr int kCaller = -1;  // no message: the caller's memory itself

struct Links {
  int input = kCaller, before = kCaller, output = kCaller;
  int inputs = kCaller;  // what jobs make as inputs of linears
};

// Panels of a job that makes inputs, from `first` on, as one more job of a part with weights of its form.
void add_panels(StepPart& part, GemvJob job, int first, int count) {
  expect(same_form(job.weight, part.gemv.jobs[0].weight));
  Weight& w = job.weight;
  const int64_t groups = int64_t{first} * part.groups;
  w.data = static_cast<const char*>(w.data) + int64_t{first} * part.units * 512;
  w.scales = static_cast<const char*>(w.scales) + groups * 32;
  if (w.zeros) w.zeros += groups * (part.narrow ? kGroupZeros : 2 * kGroupZeros);
  if (w.bias) w.bias += first * 16;
  w.n -= first * 16;
  job.out = static_cast<char*>(job.out) + first * 32;
  job.first_item = part.items;
  part.gemv.jobs[part.gemv.n_jobs++] = job;
  part.items += count;
}

}  // namespace

struct StepProgram::Parts {
  std::vector<StepPart> parts;
  std::vector<Links> links;  // of each part
  std::vector<Message> messages;
  DeviceMemory memory, sets, turns;
  int64_t set_bytes = 0;
  int rows = 0;
  int x_bytes = static_cast<int>(round_up(kStepAttentionBytes, 128));

  // The last message written there.
  int read(const Area& area) {
    for (size_t i = messages.size(); i-- > 0;) {
      Message& m = messages[i];
      if (area.begin >= m.end || area.end <= m.begin) continue;
      expect(area.begin >= m.begin && area.end <= m.end);
      m.read = true;
      return static_cast<int>(i);
    }
    return kCaller;
  }
  // beside: where it touches what the part before writes, that is one message with it.
  int write(const Area& area, bool beside) {
    if (beside) {
      Message& last = messages.back();
      if (area.begin <= last.end && area.end >= last.begin) {
        last.begin = std::min(last.begin, area.begin);
        last.end = std::max(last.end, area.end);
        return static_cast<int>(messages.size()) - 1;
      }
    }
    messages.push_back({area.begin, area.end});
    return static_cast<int>(messages.size()) - 1;
  }
  // Where the first set has what the caller's pointer says; whether it is a message.
  template <typename T>
  bool place(T*& pointer, int message) const {
    if (message == kCaller || !messages[static_cast<size_t>(message)].read) return false;
    const Message& m = messages[static_cast<size_t>(message)];
    pointer =
        reinterpret_cast<T*>(sets.as<char>() + m.at + (reinterpret_cast<const char*>(pointer) - m.begin));
    return true;
  }
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
    if (call.jobs[j].finish != call.jobs[0].finish) return false;
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
  // As many units as fit with their scales and zero points, as many for each warp.
  const int scales = width / 16 / part.steps, zeros = narrow ? kGroupZeros : 2 * kGroupZeros;
  const int most = (kStageBytes - 16) / (512 + scales * (32 + zeros));
  part.stage_units = std::min(part.units, std::min(most, kStageUnits) / kStepWarps * kStepWarps);
  part.stage_groups = part.stage_units * scales;
  part.groups = w.groups();
  while (w.group < w.k && 16 * part.steps << part.group_shift < w.group) ++part.group_shift;
  if (w.group >= w.k) part.group_shift = 30;
  part.norm_stages = call.x || beside ? 0 : call.norm.bias ? 2 : 1;
  part.together =
      std::min(kSumFloats / (part.sides * kStepWarps * call.rows * 16), kStepThreads / 16 / call.rows);
  expect(part.together >= 1);
  part.line = input_line(w.k);
  part.sums_at = input_bytes(w.k, call.rows);
  part.gemv = call;
  parts_->x_bytes = std::max(
      parts_->x_bytes, static_cast<int>(round_up(part.sums_at + input_sum_bytes(w.k, part.steps), 128)));
  if (beside) {
    // The blocks that attention does not need, and no more of them than shorten the longest share of panels.
    StepPart &attention = parts.back(), &projections = parts[parts.size() - 2];
    projections.shares_input = true;
    const int all = part.blocks, needed = std::min(attention.items, all / 4), rest = all - needed;
    // Panels that would make a round of their own go to blocks that have one less of the projections.
    const int over = part.items % rest, first = part.items - over,
              idle = (all - projections.items % all) % all;
    const bool zeros_fit = !w.zeros || (first - projections.items) * part.groups % 2 == 0;  // as in takes()
    if (first > 0 && over > 0 && over <= idle && !call.jobs[0].y && part.sides == 1 && zeros_fit &&
        projections.gemv.n_jobs < kMaxJobs) {
      part.items = first;
      add_panels(projections, call.jobs[0], first, over);
    }
    const int rounds = (part.items + rest - 1) / rest;
    attention.blocks = all - (part.items + rounds - 1) / rounds;
    part.first_block = attention.blocks;
    part.blocks = all - attention.blocks;
  }
  Links links;
  if (!beside)
    links.input = parts_->read(call.x ? area_of(call.x, call.rows, call.ldx, w.k, 2)
                                      : area_of(call.h, call.rows, w.k, w.k, sizeof(float)));
  const GemvJob &first = call.jobs[0], &last = call.jobs[call.n_jobs - 1];
  if (!first.y) {
    expect(call.n_jobs == 1);
    links.inputs = parts_->write(area_of(first.out, call.rows, first.ld_out, round_up(w.n, 8), 2), beside);
    if (beside) parts_->links[parts.size() - 2].inputs = links.inputs;
  } else {
    Area area = area_of(first.y, call.rows, first.ldy, w.n, sizeof(float));
    area.end = area_of(last.y, call.rows, last.ldy, last.weight.n, sizeof(float)).end;
    part.before = first.y;
    if (first.finish == Finish::kAdd) {
      expect(call.n_jobs == 1);
      links.before = parts_->read(area);
    }
    links.output = parts_->write(area, beside);
  }
  parts_->rows = std::max(parts_->rows, call.rows);
  parts_->links.push_back(links);
  parts.push_back(part);
}

void StepProgram::add(const Attention& call) {
  expect(takes(call) && !parts_->parts.empty());
  StepPart part = {};
  part.kind = StepPart::kAttention;
  part.blocks = device().multiprocessors;
  part.items = call.heads.n_heads * call.places.rows;
  part.attention = call;
  const int dim = call.heads.head_dim, width = (call.heads.n_heads + 2 * call.heads.n_kv_heads) * dim;
  Links links;
  links.input = parts_->read(area_of(call.qkv, call.places.rows, width, width, sizeof(float)));
  links.output = parts_->write(
      area_of(call.out, call.places.rows, call.ld, int64_t{call.heads.n_heads} * dim, 2), false);
  parts_->links.push_back(links);
  parts_->parts.push_back(part);
}

void StepProgram::upload(Queue& queue) {
  // What no later part reads is the caller's, and stays where he said.
  for (Message& m : parts_->messages) {
    if (!m.read) continue;
    m.at =
        round_up(parts_->set_bytes, 128) + static_cast<int64_t>(reinterpret_cast<uintptr_t>(m.begin) % 128);
    parts_->set_bytes = round_up(m.at + (m.end - m.begin), 16);
  }
  expect(parts_->set_bytes < INT32_MAX);
  parts_->sets = DeviceMemory(static_cast<size_t>(2 * parts_->set_bytes));
  const std::vector<uint32_t> nothing(static_cast<size_t>(parts_->set_bytes / 2), kNothing);
  queue.to_device(parts_->sets.as<void>(), nothing.data(), nothing.size() * sizeof(uint32_t));
  parts_->turns = DeviceMemory(2 * sizeof(int));
  for (size_t i = 0; i < parts_->parts.size(); ++i) {
    StepPart& part = parts_->parts[i];
    const Links& links = parts_->links[i];
    if (part.kind == StepPart::kAttention) {
      part.awaits_input = parts_->place(part.attention.qkv, links.input);
      part.sends = parts_->place(part.attention.out, links.output);
      continue;
    }
    part.awaits_input =
        part.gemv.x ? parts_->place(part.gemv.x, links.input) : parts_->place(part.gemv.h, links.input);
    part.awaits_before = parts_->place(part.before, links.before);
    for (int j = 0; j < part.gemv.n_jobs; ++j) {
      GemvJob& job = part.gemv.jobs[j];
      const bool sends = job.y ? parts_->place(job.y, links.output) : parts_->place(job.out, links.inputs);
      expect(j == 0 || sends == part.sends);
      part.sends = sends;
    }
  }
  const size_t bytes = parts_->parts.size() * sizeof(StepPart);
  parts_->memory = DeviceMemory(bytes);
  queue.to_device(parts_->memory.as<void>(), parts_->parts.data(), bytes);
  queue.wait();
}

void StepProgram::run(Queue& queue, bool overlap) const {
  StepCall call;
  call.program = parts_->memory.as<StepPart>();
  call.rows = parts_->rows;
  call.n_parts = static_cast<int>(parts_->parts.size());
  call.messages = parts_->sets.as<unsigned char>();
  call.set_bytes = static_cast<uint32_t>(parts_->set_bytes);
  call.turns = parts_->turns.as<int>();
  call.x_bytes = parts_->x_bytes;
  const int fixed = static_cast<int>(step_shared_bytes()) + call.x_bytes;
  call.stages = std::min(kMaxStages, (device().shared_bytes_per_block - fixed) / kStageBytes);
  run_step(queue, call, overlap);
}

}  // namespace nibble::cuda
