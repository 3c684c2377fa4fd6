// The forward pass on a GPU: kernels/cuda/ops.h called in the order of model/session.cpp.
//
// Memory is planned when a session is made: weights once for each model, the cache as asked for, one
// workspace. A decoding step of few rows is recorded once as a graph and replayed; its greedy form feeds
// itself, and the host only reads the tokens when all steps are through.
#pragma once

#include <map>
#include <optional>
#include <utility>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/step.h"
#include "model/cuda/weights.h"
#include "model/forward_pass.h"

namespace nibble {

class CudaSession : public ForwardPass {
 public:
  CudaSession(std::shared_ptr<const Model> model, const SessionOptions& options);

  // Whether steps of one row have been one kernel (NIBBLE_CUDA_STEP, docs/gpu.md).
  bool used_one_kernel() const;

  uint64_t cache_bytes() const override;
  uint64_t workspace_bytes() const override;
  void forward(const Batch& batch) override;
  void copy_cache(int from, int to, int count) override;
  void row_logits(size_t first, size_t count, float* out) override;
  void score(std::span<const TokenQuestion> questions, std::span<TokenScore> scores) override;
  void argmax(std::span<const size_t> rows, std::span<int32_t> best) override;
  void greedy(std::span<const Continuation> sequences, int steps, int32_t* out, double* step_ms) override;

 private:
  // What the host writes for a batch, and the card reads; the same layout on both.
  struct Rows {
    int32_t *tokens, *positions, *slots;
  };
  // How a step's attention goes over the cache (cuda::Attention).
  struct Reach {
    int splits = 1;
    bool few_keys = false;
    auto operator<=>(const Reach&) const = default;
  };
  // A recorded step: rows, and how many steps that end with the next token; 0: one without.
  struct StepKey {
    int rows;
    Reach reach;
    int greedy_steps;
    auto operator<=>(const StepKey&) const = default;
  };

  static constexpr int kMaxSplits = 32;      // blocks that share a row's keys
  static constexpr int kMaxQuestions = 512;  // answered at a time
  // The record of a decoding loop on the card: step, then found, then times, of so many steps.
  static constexpr int kLoopSteps = 1024;
  static constexpr size_t kFoundAt = 16;
  static constexpr size_t kTimesAt = kFoundAt + size_t{kLoopSteps} * cuda::kMaxColumns * sizeof(int32_t);
  static constexpr size_t kLoopBytes = kTimesAt + size_t{kLoopSteps} * sizeof(uint64_t);

  // Up to how many rows a step is one kernel where that takes it; NIBBLE_CUDA_STEP forces one or many.
  static int rows_of_one_kernel(const ModelConfig& config);
  void allocate();
  void fill_rope();
  bool is_step(const Batch& batch) const;
  Reach reach_of(int last_position, int rows) const;
  cuda::Cache cache_of(size_t layer) const;

  // Queues the blocks for rows_ in place; fused: the few-rows form.
  void run_blocks(int rows, const Reach& reach, bool step, bool overlap = false);
  void run_greedy_step(int rows, const Reach& reach, bool overlap);
  // The blocks of a step, and the head if asked for, as one kernel's program; null where they are kernels of
  // their own.
  const cuda::StepProgram* program(int rows, const Reach& reach, bool head);
  bool fill_program(cuda::StepProgram& program, int rows, bool head) const;
  // The recorded steps that come next, `left` at most, from a last position on.
  StepKey next_steps(int rows, int last, int left) const;
  void attention_block(const CudaBlock& block, size_t layer, int rows, const Reach& reach, bool step);
  void mlp_block(const CudaBlock& block, int rows, bool step);
  // A product of the norm of the residual stream.
  cuda::Gemv of_norm(const cuda::NormWeight& norm, int rows) const;
  cuda::Gemv fused_projections(const CudaBlock& block, int rows) const;
  cuda::Gemv fused_mlp(const CudaBlock& block, int rows) const;
  bool can_fuse_mlp(const CudaBlock& block, int rows) const;
  cuda::Attention attention_call(size_t layer, int rows, const Reach& reach, bool step) const;
  cuda::Gemv head_call(const float* h, int rows) const;
  bool can_fuse_projections(const CudaBlock& block, int rows) const;
  void linear(const cuda::Weight& weight, const void* x, int64_t ldx, int rows, bool add, float* y,
              int64_t ldy, const cuda::Ahead& ahead = {});
  // Weights behind those that end at `end`, as far as nobody has asked for them in this step.
  cuda::Ahead ahead(const char* end, int64_t bytes);
  void norm(const cuda::NormWeight& norm, const float* h, int rows);
  // logits_ of rows first … of h_.
  void run_head(int first, int count, bool overlap);
  const cuda::Graph& step_graph(const StepKey& key);
  void place_rows(std::span<const int32_t> tokens, std::span<const Segment> segments);
  template <typename Body>
  void for_logits(std::span<const size_t> rows, const Body& body);

  std::shared_ptr<const CudaWeights> weights_;
  cuda::Queue queue_;
  cuda::Linears linears_;
  int parts_;               // numbers a value (kernels/cuda/ops.h)
  int few_;                 // rows up to which a batch of single tokens is a recorded step
  int logit_rows_;          // that logits_ holds
  int rows_of_one_kernel_;  // at most: a step, where that kernel takes it
  cuda::CacheKind cache_kind_;
  cuda::Heads heads_;
  cuda::DeviceMemory rope_, keys_, values_, key_scales_, value_scales_;
  // Activations [rows]: residual stream; inputs of linears; what the projections yield.
  cuda::DeviceMemory h_, normed_, o_inputs_, qkv_, gate_up_, logits_, scratch_, partial_;
  // Inputs of o and down: apart, or side by side where the two are one product (CudaBlock::joint()).
  char *attended_ = nullptr, *inner_ = nullptr;
  cuda::DeviceMemory batch_, loop_, keys_of_best_, questions_, answers_, best_;
  cuda::PinnedMemory host_batch_, host_loop_;
  int64_t ld_hidden_, ld_attended_, ld_inner_;
  const char* asked_ = nullptr;  // up to where weights have been asked for
  int rows_in_batch_ = 0;
  Rows device_rows_ = {}, host_rows_ = {};
  std::map<std::pair<int, bool>, std::optional<cuda::StepProgram>>
      programs_;  // of rows, with the head or not
  std::map<StepKey, cuda::Graph> graphs_;
};

}  // namespace nibble
