#include "model/cuda/weights.h"

#include <algorithm>
#include <mutex>

namespace nibble {
namespace {

constexpr size_t kAlign = 256;

cuda::WeightKind kind_of(const Linear& linear) {
  using cuda::WeightKind;
  if (linear.packed) return linear.packed->format.bits <= 4 ? WeightKind::kQ4 : WeightKind::kQ8;
  return linear.dense.dtype == DType::kBF16  ? WeightKind::kBf16
         : linear.dense.dtype == DType::kF16 ? WeightKind::kF16
                                             : WeightKind::kF32;
}

}  // namespace

// Two passes: the first counts bytes, the second fills the one allocation.
CudaWeights::CudaWeights(const Model& model) {
  build(model);
  memory_ = cuda::DeviceMemory(used_);
  staging_ = cuda::DeviceMemory(staging_needed_);
  counting_ = false;
  used_ = 0;
  orders_.clear();
  blocks.clear();
  build(model);
  queue_.wait();
  staging_ = cuda::DeviceMemory();
}

void* CudaWeights::take(size_t bytes) {
  const size_t at = used_;
  used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  return counting_ ? nullptr : memory_.as<char>() + at;
}

const float* CudaWeights::floats(const std::vector<float>& values) {
  if (values.empty()) return nullptr;
  const size_t bytes = values.size() * sizeof(float);
  void* to = take(bytes);
  if (!counting_) queue_.to_device(to, values.data(), bytes);
  return static_cast<const float*>(to);
}

cuda::NormWeight CudaWeights::norm(const Norm& norm) {
  return {floats(norm.weight), floats(norm.bias), eps_};
}

void CudaWeights::copy_dense(const Linear& linear, cuda::Weight& weight) {
  const size_t element = dtype_size(linear.dense.dtype), rows = static_cast<size_t>(linear.n);
  weight.stride = cuda::round_up(linear.k, 8);
  const size_t stride = static_cast<size_t>(weight.stride) * element;
  void* to = take(rows * stride);
  weight.data = to;
  if (!counting_)
    queue_.rows_to_device(to, stride, linear.dense.data, static_cast<size_t>(linear.k) * element, rows);
}

void CudaWeights::copy_packed(const PackedView& view, cuda::Weight& weight) {
  const PackedFormat& f = view.format;
  weight.group = static_cast<int>(f.group());
  weight.middle = f.middle();
  weight.float_scales = f.float_scales;
  weight.wide_zeros = f.zero_bytes_per_group() == 16;
  const size_t scales = static_cast<size_t>(f.scale_count()) * static_cast<size_t>(f.scale_bytes());
  const size_t codes = static_cast<size_t>(f.code_bytes()), zeros = static_cast<size_t>(f.zero_bytes());
  void* to = take(cuda::tile_bytes(weight.kind, weight.n, weight.k));
  void* to_scales = take(scales);
  void* to_zeros = zeros > 0 ? take(zeros) : nullptr;
  weight.data = to;
  weight.scales = to_scales;
  weight.zeros = static_cast<const uint8_t*>(to_zeros);
  staging_needed_ = std::max({staging_needed_, codes, scales, zeros});
  if (counting_) return;
  void* raw = staging_.as<void>();
  queue_.to_device(raw, view.codes, codes);
  cuda::retile(queue_, static_cast<const uint8_t*>(raw), f.bits, weight.n, weight.k, to);
  queue_.to_device(raw, f.float_scales ? static_cast<const void*>(view.float_scales) : view.scales, scales);
  cuda::pair_rows(queue_, raw, to_scales, f.panels() * f.groups(), f.scale_bytes());
  if (zeros == 0) return;
  if (!weight.wide_zeros) return queue_.to_device(to_zeros, view.zeros, zeros);
  queue_.to_device(raw, view.zeros, zeros);
  cuda::pair_rows(queue_, raw, to_zeros, f.panels() * f.groups(), 1);
}

cuda::Weight CudaWeights::linear(const Linear& linear) {
  cuda::Weight weight;
  if (!linear.present()) return weight;
  weight.kind = kind_of(linear);
  weight.n = static_cast<int>(linear.n);
  weight.k = static_cast<int>(linear.k);
  if (linear.packed) {
    copy_packed(*linear.packed, weight);
  } else {
    copy_dense(linear, weight);
  }
  weight.bias = floats(linear.bias);
  if (linear.order) {
    const auto [entry, is_new] = orders_.try_emplace(linear.order, nullptr);
    if (is_new) {
      const size_t bytes = static_cast<size_t>(linear.k) * sizeof(int32_t);
      void* to = take(bytes);
      if (!counting_) queue_.to_device(to, linear.order, bytes);
      entry->second = static_cast<const int32_t*>(to);
    }
    weight.order = entry->second;
  }
  return weight;
}

void CudaWeights::build(const Model& model) {
  eps_ = model.config.norm_eps;
  embedding = linear(model.embedding);
  if (model.config.tied_head) {
    head = embedding;
    head.bias = floats(model.head.bias);
  } else {
    head = linear(model.head);
  }
  final_norm = norm(model.final_norm);
  for (const Block& from : model.blocks) {
    CudaBlock& block = blocks.emplace_back();
    block.attn_norm = norm(from.attn_norm);
    if (!from.mlp_norm.weight.empty()) block.mlp_norm = norm(from.mlp_norm);
    block.q = linear(from.q);
    block.k = linear(from.k);
    block.v = linear(from.v);
    block.o = linear(from.o);
    block.gate = linear(from.gate);
    block.up = linear(from.up);
    block.down = linear(from.down);
  }
}

std::shared_ptr<const CudaWeights> CudaWeights::of(const std::shared_ptr<const Model>& model) {
  struct Entry {
    std::weak_ptr<const Model> model;
    std::shared_ptr<const CudaWeights> weights;
  };
  static std::mutex mutex;
  static std::vector<Entry> entries;
  const std::lock_guard lock(mutex);
  std::erase_if(entries, [](const Entry& entry) { return entry.model.expired(); });
  for (const Entry& entry : entries) {
    if (entry.model.lock() == model) return entry.weights;
  }
  entries.push_back({model, std::make_shared<const CudaWeights>(*model)});
  return entries.back().weights;
}

}  // namespace nibble
