#include "quant/compute.h"

#include <algorithm>
#include <deque>

#include "model/session.h"

namespace nibble {
namespace {

class ProcessorCompute : public Compute {
 public:
  ProcessorCompute(std::shared_ptr<const Model> model, int tokens, ThreadPool& pool)
      : session_(
            std::move(model),
            {.slots = 1, .context = tokens, .batch_tokens = tokens, .precision = {}, .expect_packed = true},
            pool) {}

  float* allocate(int64_t floats) override {
    return memory_.emplace_back(static_cast<size_t>(floats)).data();
  }
  void copy(float* to, const float* from, int64_t count) override { std::copy_n(from, count, to); }
  void embed(const Batch& batch, float* h) override {
    session_.check(batch);
    session_.embed(batch, h);
  }
  void norm(const Norm& norm, const float* h, float* x, int64_t rows) override {
    session_.norm(norm, h, x, rows);
  }
  void attention(const Block& block, int layer, const Batch& batch, const float* x, float* a) override {
    session_.attention(block, layer, batch, x, a);
  }
  void mlp_inner(const Block& block, const float* x, float* y, int64_t rows) override {
    session_.mlp_inner(block, x, y, rows);
  }
  void linear(const Linear& linear, const float* x, float* y, int64_t rows) override {
    session_.linear(linear, x, y, rows);
  }
  void add(float* y, const float* x, int64_t count) override { session_.add(y, x, count); }
  void subtract(const float* a, const float* b, const std::vector<float>& bias, int64_t rows, int64_t width,
                float* to) override {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < width; ++i) {
        const int64_t at = row * width + i;
        to[at] = a[at] - b[at] - (bias.empty() ? 0.0f : bias[static_cast<size_t>(i)]);
      }
    }
  }
  void weights_changed() override {}
  std::unique_ptr<InputSums> sums(int64_t k, int64_t n, bool gram) override {
    return processor_sums(k, n, gram, session_.pool());
  }
  GptqCard* card() override { return nullptr; }

 private:
  Session session_;
  std::deque<std::vector<float>> memory_;
};

}  // namespace

std::unique_ptr<Compute> open_compute(Device device, std::shared_ptr<const Model> model, int tokens,
                                      ThreadPool& pool) {
  if (device == Device::kCuda) return open_cuda_compute(std::move(model), tokens, pool);
  return std::make_unique<ProcessorCompute>(std::move(model), tokens, pool);
}

}  // namespace nibble
