// A model's weights on the card: copied once, however many sessions there are; a tied head once too.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/ops.h"
#include "model/model.h"

namespace nibble {

struct CudaBlock {
  cuda::NormWeight attn_norm, mlp_norm;
  cuda::Weight q, k, v, o, gate, up, down;  // gate's n is 0 where the MLP has none
  // Where the weights of q to v, o, gate and up, down end: they lie in the order of their use.
  const char *projections_end = nullptr, *o_end = nullptr, *up_end = nullptr, *down_end = nullptr;
  // In a parallel block: o is [o | down], of the inputs of both, and down's n is 0.
  bool joint() const { return down.n == 0; }
};

class CudaWeights {
 public:
  explicit CudaWeights(const Model& model);

  // Those of the model, which are there as long as it is.
  static std::shared_ptr<const CudaWeights> of(const std::shared_ptr<const Model>& model);

  cuda::Weight embedding, head;
  cuda::NormWeight final_norm;
  std::vector<CudaBlock> blocks;
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  // Bytes that add() takes of the memory; the first pass only counts.
  struct Place;
  // Side by side, where there are several: the weight of their inputs one after the other.
  cuda::Weight linear(std::initializer_list<const Linear*> pieces);
  cuda::NormWeight norm(const Norm& norm);
  const float* floats(const std::vector<float>& values);
  void* take(size_t bytes);
  void copy_dense(std::span<const Linear* const> pieces, cuda::Weight& weight);
  void copy_packed(std::span<const Linear* const> pieces, cuda::Weight& weight);
  const char* here() const { return counting_ ? nullptr : memory_.as<char>() + used_; }
  void build(const Model& model);

  cuda::Queue queue_;
  cuda::DeviceMemory memory_, staging_;
  bool counting_ = true;
  size_t used_ = 0, staging_needed_ = 0;
  float eps_ = 0;
  std::map<const int32_t*, const int32_t*> orders_;  // of the host to the card's
};

}  // namespace nibble
