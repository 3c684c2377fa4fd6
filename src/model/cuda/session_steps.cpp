// Decoding steps: what a batch must be for one, and how it is recorded, as many kernels or as one.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "base/error.h"
#include "model/cuda/session.h"

namespace nibble {
namespace {

constexpr int kKeysPerSplit = 256;
// One kernel a step pays from this hidden size on (docs/gpu.md), of one row and of more, and while a block
// can take all keys of a head.
constexpr int kLeastHidden = 896, kLeastHiddenOfRows = 2048;
constexpr int kMostSplitsInProgram = 4;

}  // namespace

int CudaSession::rows_of_one_kernel(const ModelConfig& config) {
  constexpr int kAll = std::numeric_limits<int>::max();
  if (const char* forced = std::getenv("NIBBLE_CUDA_STEP")) {
    const std::string_view form = forced;
    if (form != "one" && form != "many") fail("NIBBLE_CUDA_STEP: one or many, not {}", form);
    return form == "one" ? kAll : 0;
  }
  return config.hidden_size >= kLeastHiddenOfRows ? kAll : config.hidden_size >= kLeastHidden ? 1 : 0;
}

const cuda::StepProgram* CudaSession::program(int rows, const Reach& reach, bool head) {
  if (rows > rows_of_one_kernel_ || reach.splits > kMostSplitsInProgram) return nullptr;
  auto found = programs_.find({rows, head});
  if (found == programs_.end()) {
    found = programs_.emplace(std::pair(rows, head), std::nullopt).first;
    cuda::StepProgram program;
    if (fill_program(program, rows, head)) {
      program.upload(queue_);
      found->second = std::move(program);
    }
  }
  return found->second ? &*found->second : nullptr;
}

bool CudaSession::used_one_kernel() const {
  return std::ranges::any_of(programs_, [](const auto& entry) { return entry.second.has_value(); });
}

bool CudaSession::fill_program(cuda::StepProgram& program, int rows, bool head) const {
  const ModelConfig& c = model_->config;
  float* h = h_.as<float>();
  const auto add = [&](const auto& call, auto... beside) {
    const bool taken = cuda::StepProgram::takes(call);
    if (taken) program.add(call, beside...);
    return taken;
  };
  for (size_t layer = 0; layer < weights_->blocks.size(); ++layer) {
    const CudaBlock& b = weights_->blocks[layer];
    if (!can_fuse_projections(b, rows)) return false;
    cuda::Gemv projections = fused_projections(b, rows), first_of_mlp = projections;
    if (c.parallel_block) {
      first_of_mlp.jobs[0] = projections.jobs[--projections.n_jobs];
      first_of_mlp.n_jobs = 1;
    }
    if (!add(projections) || !add(attention_call(layer, rows, Reach(), true))) return false;
    if (c.parallel_block && !add(first_of_mlp, true)) return false;
    if (!add(cuda::gemv_of(b.o, attended_, ld_attended_, rows, parts_, true, h, c.hidden_size))) return false;
    if (b.joint()) continue;
    if (!c.parallel_block && (!can_fuse_mlp(b, rows) || !add(fused_mlp(b, rows)))) return false;
    if (!add(cuda::gemv_of(b.down, inner_, ld_inner_, rows, parts_, true, h, c.hidden_size))) return false;
  }
  return !head || add(head_call(h, rows));
}

CudaSession::Reach CudaSession::reach_of(int last_position, int rows) const {
  const int wanted = last_position / kKeysPerSplit + 1;
  const int room = std::max(1, 4 * cuda::device().multiprocessors / (rows * heads_.n_kv_heads));
  return {std::min({wanted, room, kMaxSplits}), last_position < cuda::kFewKeys};
}

bool CudaSession::is_step(const Batch& batch) const {
  if (batch.tokens.size() > static_cast<size_t>(few_)) return false;
  std::vector<bool> taken(static_cast<size_t>(options_.slots));
  for (const Segment& s : batch.segments) {
    if (s.count > 1 || taken[static_cast<size_t>(s.slot)]) return false;
    taken[static_cast<size_t>(s.slot)] = true;
  }
  return true;
}

const cuda::Graph& CudaSession::step_graph(const StepKey& key) {
  const auto found = graphs_.find(key);
  if (found != graphs_.end()) return found->second;
  // Programs are made before the recording.
  if (key.greedy_steps == 0 || !program(key.rows, key.reach, true)) program(key.rows, key.reach, false);
  queue_.begin_recording();
  if (key.greedy_steps == 0) run_blocks(key.rows, key.reach, true);
  for (int i = 0; i < key.greedy_steps; ++i) run_greedy_step(key.rows, key.reach, i > 0);
  return graphs_.emplace(key, queue_.end_recording()).first->second;
}

}  // namespace nibble
