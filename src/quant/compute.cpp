#include "quant/compute.h"

#include <algorithm>
#include <deque>

#include "model/session.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

constexpr size_t kMostKept = size_t{256} << 20;  // values: 512 MiB

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
  // Tiles multiply what bf16 has left of x.
  bool keep(const float* x, int64_t count) override {
    const KernelTable& kernel = session_.kernels();
    const size_t size = static_cast<size_t>(count);
    full_ = full_ || !kernel.packed_bf16 || kept_values_ + size > kMostKept;
    if (full_) return false;
    if (kept_ == bf16_.size()) bf16_.emplace_back();
    std::vector<uint16_t>& to = bf16_[kept_++];
    to.resize(size);
    session_.pool().parallel_for(size, 4096, [&](size_t begin, size_t end, int) {
      kernel.to_bf16(x + begin, to.data() + begin, static_cast<int64_t>(end - begin));
    });
    kept_values_ += size;
    return true;
  }
  bool recall(float* x, int64_t count) override {
    if (recalled_ == kept_) return false;
    const std::vector<uint16_t>& from = bf16_[recalled_++];
    NIBBLE_CHECK(static_cast<int64_t>(from.size()) == count);
    session_.pool().parallel_for(from.size(), 4096, [&](size_t begin, size_t end, int) {
      std::transform(from.data() + begin, from.data() + end, x + begin, bf16_to_float);
    });
    return true;
  }
  void forget() override {
    kept_ = recalled_ = kept_values_ = 0;
    full_ = false;
  }
  std::unique_ptr<InputSums> sums(int64_t k, int64_t n, bool gram) override {
    return processor_sums(k, n, gram, session_.pool());
  }
  GptqCard* card() override { return nullptr; }

 private:
  Session session_;
  std::deque<std::vector<float>> memory_;
  std::vector<std::vector<uint16_t>> bf16_;  // the first kept_ of them are in use, recalled_ were given back
  size_t kept_ = 0, recalled_ = 0, kept_values_ = 0;
  bool full_ = false;
};

}  // namespace

std::unique_ptr<Compute> open_compute(Device device, std::shared_ptr<const Model> model, int tokens,
                                      ThreadPool& pool) {
  if (device == Device::kCuda) return open_cuda_compute(std::move(model), tokens, pool);
  return std::make_unique<ProcessorCompute>(std::move(model), tokens, pool);
}

}  // namespace nibble
