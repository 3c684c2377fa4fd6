// A model whose parts can be trained: float32 values with their gradients beside them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "model/model.h"

namespace nibble {

struct Parameter {
  std::string name;             // "model.layers.0.self_attn.q_proj.scales"
  std::vector<float> value;     // empty: the model has no such part
  std::vector<float> gradient;  // as long as value, or empty where it is frozen

  bool trained() const { return !gradient.empty(); }
};

// What of a model is trained; the rest is frozen.
struct TrainedParts {
  bool everything = false;  // weights, biases, norms, embedding and head; of a dense model only
  bool scales = false;      // of packed linears in the blocks, their integers frozen
  bool zeros = false;       // likewise
  int adapter_rank = 0;     // of an adapter beside each linear in the blocks (LoRA, Hu et al. 2021); 0: none
  float adapter_scale = 2;  // W + adapter_scale · B·A: alpha / rank
  uint64_t seed = 0;        // draws A; B starts at 0
  bool round_to_stored = true;  // scales and zeros act as they will be stored: fp16 or bytes, integers
};

// y = x · wᵀ + bias, where w [n, k] is what rows() says.
class TrainedLinear {
 public:
  // Throws Error where `parts` asks for what this linear cannot give.
  TrainedLinear(const Linear& source, const TrainedParts& parts, bool in_block, Random& random,
                ThreadPool& pool);

  const std::string& name() const { return source_->name; }
  int64_t n() const { return source_->n; }
  int64_t k() const { return source_->k; }
  bool is_packed() const { return source_->packed.has_value(); }
  const PackedFormat& format() const { return source_->packed->format; }
  const float* bias_data() const { return bias.value.empty() ? nullptr : bias.value.data(); }

  Parameter weight;         // [n, k]; empty where it is frozen: rows() then reads the checkpoint
  Parameter bias;           // [n] or empty
  Parameter scales, zeros;  // [n, groups] of a packed linear
  Parameter a, b;           // adapter [rank, k], [n, rank]

  // The scale and zero point that stand for scales.value[i] and zeros.value[i].
  float stored_scale(size_t i) const;
  float stored_zero(size_t i) const;

  QuantizedMatrix stored() const;  // of a packed linear: as it will be stored

  // out[count, k] = rows first … first + count − 1 of w, without the adapter. On the calling thread.
  void rows(int64_t first, int64_t count, float* out) const;
  // w whole, with the adapter: in the parameter itself or in out [n, k].
  const float* materialize(float* out, ThreadPool& pool) const;

  // Adds to the gradients of what is trained for inputs x [m, k] and dy = ∂loss/∂y [m, n].
  // scratch: kPanel · k floats a thread.
  static constexpr int64_t kPanel = 128;
  void accumulate(const float* x, const float* dy, int64_t m, AlignedBuffer<float>& scratch,
                  ThreadPool& pool);
  // The same for weight, scales and zeros of `count` ≤ kPanel rows of w, on the calling thread.
  // dy: column `first` of it; rows lie ldy apart.
  void accumulate_rows(int64_t first, int64_t count, const float* x, const float* dy, int64_t ldy, int64_t m,
                       float* scratch);
  void accumulate_bias(const float* dy, int64_t m, ThreadPool& pool);

  // Whether w without the adapter stays as the checkpoint has it.
  bool is_frozen() const { return weight.value.empty() && !scales.trained() && !zeros.trained(); }
  // What the adapter alone adds: y[m, n] += x·(s·B·A)ᵀ, dx[m, k] += dy·(s·B·A). Nothing without one.
  void add_adapter(const float* x, int64_t m, float* y, ThreadPool& pool) const;
  void add_adapter_backward(const float* dy, int64_t m, float* dx, ThreadPool& pool) const;

  void collect(std::vector<Parameter*>& to);  // those that are trained

 private:
  const Linear* source_;
  TrainedParts parts_;
  AlignedBuffer<uint8_t> codes_;  // [n, k] of a packed linear, columns as packed
  std::vector<float> units_;      // [n] of its scales, where these are bytes
};

struct TrainedNorm {
  Parameter weight, bias;  // [hidden]; bias empty for RMSNorm
  bool trained() const { return weight.trained() || bias.trained(); }
};

struct TrainedBlock {
  TrainedBlock(const Model& model, size_t layer, const TrainedParts& parts, Random& random, ThreadPool& pool);
  TrainedBlock(TrainedBlock&&) = default;

  TrainedNorm attn_norm, mlp_norm;  // mlp_norm empty in a parallel block
  std::vector<TrainedLinear> linears;
  // Of `linears`; gate null where the MLP has none.
  TrainedLinear *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr, *gate = nullptr, *up = nullptr,
                *down = nullptr;
};

class TrainedModel {
 public:
  // Packed codes are unpacked to a byte each; dense weights that are frozen stay in the checkpoint.
  TrainedModel(std::shared_ptr<const Model> model, const TrainedParts& parts, ThreadPool& pool);

  const Model& model() const { return *model_; }
  const ModelConfig& config() const { return model_->config; }
  TrainedLinear& embedding() { return own_embedding_ ? *own_embedding_ : *head_; }
  TrainedLinear& head() { return *head_; }
  TrainedNorm final_norm;
  std::vector<TrainedBlock> blocks;

  std::vector<Parameter*> parameters();  // those that are trained
  void clear_gradients();

 private:
  std::shared_ptr<const Model> model_;
  std::optional<TrainedLinear> own_embedding_;  // where the head is not tied to it
  std::optional<TrainedLinear> head_;
};

}  // namespace nibble
