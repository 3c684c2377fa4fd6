#include "model/kv_cache.h"

#include <cstring>

namespace nibble {
namespace {

// int8: codes, padded to a multiple of 16, then the scale.
size_t bytes_a_row(CacheType type, int head_dim) {
  const size_t n = static_cast<size_t>(head_dim);
  switch (type) {
    case CacheType::kF32:
      return n * sizeof(float);
    case CacheType::kF16:
      return n * sizeof(uint16_t);
    case CacheType::kI8:
      return static_cast<size_t>(act_i8_stride(head_dim)) + sizeof(float);
  }
  return 0;
}

}  // namespace

void CachedRows::load(const KernelTable& kernels, int start, int count, float* to) const {
  const size_t row_bytes = bytes_a_row(type, head_dim);
  const std::byte* from = data + static_cast<size_t>(start) * row_bytes;
  const int64_t n = int64_t{count} * head_dim;
  switch (type) {
    case CacheType::kF32:
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
      break;
    case CacheType::kF16:
      kernels.from_f16(reinterpret_cast<const uint16_t*>(from), to, n);
      break;
    case CacheType::kI8:
      for (int i = 0; i < count; ++i, from += row_bytes, to += head_dim) {
        float scale;
        std::memcpy(&scale, from + row_bytes - sizeof scale, sizeof scale);
        kernels.from_i8(reinterpret_cast<const int8_t*>(from), scale, to, head_dim);
      }
      break;
  }
}

KvCache::KvCache(const ModelConfig& config, int slots, int context, CacheType type,
                 const KernelTable& kernels)
    : kernels_(kernels),
      type_(type),
      layers_(config.n_layers),
      slots_(slots),
      context_(context),
      kv_heads_(config.n_kv_heads),
      head_dim_(config.head_dim),
      row_bytes_(bytes_a_row(type, config.head_dim)),
      data_(offset(layers_, 0, false, 0)) {}

size_t KvCache::offset(int layer, int slot, bool value, int kv_head) const {
  size_t row = static_cast<size_t>(layer) * static_cast<size_t>(slots_) + static_cast<size_t>(slot);
  row = row * 2 + (value ? 1 : 0);
  row = row * static_cast<size_t>(kv_heads_) + static_cast<size_t>(kv_head);
  return row * static_cast<size_t>(context_) * row_bytes_;
}

CachedRows KvCache::rows(int layer, int slot, bool value, int kv_head) const {
  return {type_, data_.data() + offset(layer, slot, value, kv_head), head_dim_};
}

void KvCache::copy(int from_slot, int to_slot, int count) {
  for (int layer = 0; layer < layers_; ++layer) {
    for (const bool value : {false, true}) {
      for (int h = 0; h < kv_heads_; ++h)
        std::memcpy(data_.data() + offset(layer, to_slot, value, h),
                    data_.data() + offset(layer, from_slot, value, h),
                    static_cast<size_t>(count) * row_bytes_);
    }
  }
}

void KvCache::write(int layer, int slot, int position, const float* keys, const float* values) {
  for (int h = 0; h < kv_heads_; ++h) {
    for (const bool value : {false, true}) {
      const float* from = (value ? values : keys) + int64_t{h} * head_dim_;
      std::byte* to =
          data_.data() + offset(layer, slot, value, h) + static_cast<size_t>(position) * row_bytes_;
      switch (type_) {
        case CacheType::kF32:
          std::memcpy(to, from, static_cast<size_t>(head_dim_) * sizeof(float));
          break;
        case CacheType::kF16:
          kernels_.to_f16(from, reinterpret_cast<uint16_t*>(to), head_dim_);
          break;
        case CacheType::kI8: {
          const float scale = kernels_.to_i8(from, reinterpret_cast<int8_t*>(to), head_dim_);
          std::memcpy(to + row_bytes_ - sizeof scale, &scale, sizeof scale);
          break;
        }
      }
    }
  }
}

}  // namespace nibble
