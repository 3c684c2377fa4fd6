#include "model/cuda/weights.h"

#include <algorithm>
#include <functional>
#include <mutex>
#include <utility>

namespace nibble {
namespace {

constexpr size_t kAlign = 256;

cuda::WeightKind kind_of(const Linear& linear) {
  using cuda::WeightKind;
  if (linear.packed) return linear.packed->format.bits <= 4 ? WeightKind::kQ4 : WeightKind::kQ8;
  return linear.dense.dtype == DType::kF32 ? WeightKind::kF32 : WeightKind::kF16;
}

// Whether [a | b] is a weight for the inputs of a, then those of b, each where the products read it.
bool fit_side_by_side(const Linear& a, const Linear& b) {
  if (a.order || b.order || a.n != b.n || kind_of(a) != kind_of(b) || a.k % cuda::input_stride(1) != 0)
    return false;
  if (!a.packed) return a.dense.dtype == b.dense.dtype;
  const PackedFormat &f = a.packed->format, &g = b.packed->format;
  return f.bits == g.bits && f.group() == g.group() && a.k % f.group() == 0 && f.symmetric == g.symmetric &&
         f.scale_type == g.scale_type && f.wide_zeros == g.wide_zeros;
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
  if (!counting_) {
    queue_.to_device(to, values.data(), bytes);
    queue_.wait();
  }
  return static_cast<const float*>(to);
}

cuda::NormWeight CudaWeights::norm(const Norm& norm) {
  return {floats(norm.weight), floats(norm.bias), eps_};
}

void CudaWeights::copy_dense(std::span<const Linear* const> pieces, cuda::Weight& weight) {
  const size_t element = dtype_size(pieces[0]->dense.dtype), rows = static_cast<size_t>(weight.n);
  weight.stride = cuda::round_up(weight.k, 8);
  const size_t stride = static_cast<size_t>(weight.stride) * element;
  void* first = take(rows * stride);
  weight.data = first;
  staging_needed_ = std::max(staging_needed_, sizeof(uint32_t));
  if (counting_) return;
  char* to = static_cast<char*>(first);
  for (const Linear* piece : pieces) {
    const size_t bytes = static_cast<size_t>(piece->k) * element;
    queue_.rows_to_device(to, stride, piece->dense.data, bytes, rows);
    to += bytes;
  }
  if (pieces[0]->dense.dtype == DType::kBF16)
    weight.unit = cuda::to_fp16(queue_, first, weight.n * weight.stride, staging_.as<void>());
}

void CudaWeights::copy_packed(std::span<const Linear* const> pieces, cuda::Weight& weight) {
  PackedFormat f = pieces[0]->packed->format;
  f.k = weight.k;
  weight.group = static_cast<int>(f.group());
  weight.middle = f.middle();
  weight.float_scales = f.scale_type == ScaleType::kF32;
  weight.wide_zeros = f.zero_bytes_per_group() == 16;
  const int64_t panel_groups = f.panels() * f.groups();
  const size_t scales = static_cast<size_t>(panel_groups * kPanelRows) * (weight.float_scales ? 4 : 2);
  const size_t codes = static_cast<size_t>(f.code_bytes()), zeros = static_cast<size_t>(f.zero_bytes());
  void* to = take(cuda::tile_bytes(weight.kind, weight.n, weight.k));
  void* to_scales = take(scales);
  void* to_zeros = zeros > 0 ? take(zeros) : nullptr;
  weight.data = to;
  weight.scales = to_scales;
  weight.zeros = static_cast<const uint8_t*>(to_zeros);
  staging_needed_ = std::max({staging_needed_, codes, scales, zeros});
  if (counting_) return;
  // Arrays are made of panels, in which the pieces lie side by side.
  const size_t panels = static_cast<size_t>(f.panels());
  const auto upload = [&](void* target, size_t whole, const auto& of_piece) {
    char* at = static_cast<char*>(target);
    for (const Linear* piece : pieces) {
      const auto [from, bytes] = of_piece(*piece->packed);
      queue_.rows_to_device(at, whole / panels, from, bytes / panels, panels);
      at += bytes / panels;
    }
  };
  using Part = std::pair<const void*, size_t>;
  void* raw = staging_.as<void>();
  upload(raw, codes, [](const PackedView& view) {
    return Part(view.codes, static_cast<size_t>(view.format.code_bytes()));
  });
  cuda::retile(queue_, static_cast<const uint8_t*>(raw), f.bits, weight.n, weight.k, to);
  if (f.scale_type == ScaleType::kByte) {
    int first = 0;
    for (const Linear* piece : pieces) {
      const PackedFormat& format = piece->packed->format;
      const int groups = static_cast<int>(format.groups());
      queue_.to_device(raw, piece->packed->scales, static_cast<size_t>(format.scale_bytes()));
      cuda::unit_scales(queue_, static_cast<const uint8_t*>(raw), to_scales, f.panels(), groups, first,
                        static_cast<int>(f.groups()));
      first += groups;
    }
  } else {
    upload(raw, scales, [](const PackedView& view) {
      return Part(view.scales, static_cast<size_t>(view.format.scale_bytes()));
    });
    cuda::pair_rows(queue_, raw, to_scales, panel_groups, weight.float_scales ? 4 : 2);
  }
  if (zeros == 0) return;
  upload(weight.wide_zeros ? raw : to_zeros, zeros, [](const PackedView& view) {
    return Part(view.zeros, static_cast<size_t>(view.format.zero_bytes()));
  });
  if (weight.wide_zeros) cuda::pair_rows(queue_, raw, to_zeros, panel_groups, 1);
}

cuda::Weight CudaWeights::linear(std::initializer_list<const Linear*> pieces) {
  cuda::Weight weight;
  const Linear& linear = **pieces.begin();
  if (!linear.present()) return weight;
  weight.kind = kind_of(linear);
  weight.n = static_cast<int>(linear.n);
  for (const Linear* piece : pieces) weight.k += static_cast<int>(piece->k);
  if (linear.packed) {
    copy_packed(pieces, weight);
  } else {
    copy_dense(pieces, weight);
  }
  std::vector<float> bias;
  for (const Linear* piece : pieces) {
    bias.resize(std::max(bias.size(), piece->bias.size()));
    std::transform(piece->bias.begin(), piece->bias.end(), bias.begin(), bias.begin(), std::plus<>());
  }
  weight.bias = floats(bias);
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
  embedding = linear({&model.embedding});
  if (model.config.tied_head) {
    head = embedding;
    head.bias = floats(model.head.bias);
  } else {
    head = linear({&model.head});
  }
  final_norm = norm(model.final_norm);
  const bool joint = model.config.parallel_block && std::ranges::all_of(model.blocks, [](const Block& block) {
                       return fit_side_by_side(block.o, block.down);
                     });
  for (const Block& from : model.blocks) {
    CudaBlock& block = blocks.emplace_back();
    block.attn_norm = norm(from.attn_norm);
    if (!from.mlp_norm.weight.empty()) block.mlp_norm = norm(from.mlp_norm);
    block.q = linear({&from.q});
    block.k = linear({&from.k});
    block.v = linear({&from.v});
    block.projections_end = here();
    if (!joint) block.o = linear({&from.o});
    block.o_end = here();
    block.gate = linear({&from.gate});
    block.up = linear({&from.up});
    block.up_end = here();
    if (joint) {
      block.o = linear({&from.o, &from.down});
    } else {
      block.down = linear({&from.down});
    }
    block.down_end = here();
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
