// Quantization on a card: calibration's passes and sums in float32, GPTQ's factor in float64 and its loop.
// Weights lie on the card as float32, a block's at a time, as long as they do not change.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_ops.h"
#include "model/session.h"
#include "quant/compute.h"

namespace nibble {

class CudaCompute : public Compute, private GptqCard {
 public:
  CudaCompute(std::shared_ptr<const Model> model, int tokens, ThreadPool& pool);

  float* allocate(int64_t floats) override;
  void copy(float* to, const float* from, int64_t count) override;
  void embed(const Batch& batch, float* h) override;
  void norm(const Norm& norm, const float* h, float* x, int64_t rows) override;
  void attention(const Block& block, int layer, const Batch& batch, const float* x, float* a) override;
  void mlp_inner(const Block& block, const float* x, float* y, int64_t rows) override;
  void linear(const Linear& linear, const float* x, float* y, int64_t rows) override;
  void add(float* y, const float* x, int64_t count) override;
  void subtract(const float* a, const float* b, const std::vector<float>& bias, int64_t rows, int64_t width,
                float* to) override;
  void weights_changed() override { weights_.clear(); }
  bool keep(const float*, int64_t) override { return false; }  // nothing takes less memory here
  bool recall(float*, int64_t) override { return false; }
  void forget() override {}
  std::unique_ptr<InputSums> sums(int64_t k, int64_t n, bool gram) override;
  GptqCard* card() override { return this; }

 private:
  bool factor(const InputStatistics& input, std::span<const int64_t> order, double share,
              std::vector<float>& u) override;
  QuantizedMatrix loop(std::span<const float> weight, const std::vector<float>& u,
                       std::span<const int64_t> order, const PackedFormat& format) override;
  void refine(std::span<const float> weight, const InputStatistics& input, double damp, int sweeps,
              QuantizedMatrix& matrix) override;
  // The values on the card, once for each until weights_changed().
  const float* on_card(const std::vector<float>& values);
  const float* on_card(const Linear& linear);
  // y[rows, ldy] = x · wᵀ + bias
  void multiply(const Linear& linear, const float* x, int64_t rows, float* y, int64_t ldy);
  // out[rows, n] = what the last operation left in parts_.
  void join(int64_t n, int64_t rows, float* out);

  std::shared_ptr<const Model> model_;
  ThreadPool& pool_;
  Session host_;  // embeds
  cuda::Queue queue_;
  cuda::MatrixProducts products_;
  std::deque<cuda::DeviceMemory> memory_;
  std::map<const void*, cuda::DeviceMemory> weights_;  // by the host's Linear or vector
  cuda::Heads heads_;
  cuda::DeviceMemory rope_, keys_, values_, places_, qkv_, gate_up_, parts_, partial_;
  std::vector<float> host_rows_, host_weight_;
  // Of GPTQ.
  std::unique_ptr<cuda::InverseFactor> inverse_;
  int64_t inverse_size_ = 0;
  const float* factor_on_host_ = nullptr;  // whose copy factor_ is
  const float* gram_on_host_ = nullptr;    // whose copy gram_ is
  cuda::DeviceMemory gram_, factor_, order_, weight_, sorted_, cost_, errors_, codes_, scales_, zeros_,
      units_;
};

}  // namespace nibble
