// Keys and values of a session's sequences.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "model/precision.h"

namespace nibble {

// Consecutive positions of one key/value head, in the cache's type.
struct CachedRows {
  CacheType type = CacheType::kF16;
  const std::byte* data = nullptr;
  int head_dim = 0;

  // to[count, head_dim] = positions start … start + count − 1 as float32.
  void load(const KernelTable& kernels, int start, int count, float* to) const;
};

class KvCache {
 public:
  KvCache(const ModelConfig& config, int slots, int context, CacheType type, const KernelTable& kernels);

  size_t bytes() const { return data_.size(); }
  // keys, values [n_kv_heads, head_dim] of one position.
  void write(int layer, int slot, int position, const float* keys, const float* values);
  // Positions 0 … count − 1 of every layer.
  void copy(int from_slot, int to_slot, int count);
  CachedRows keys(int layer, int slot, int kv_head) const { return rows(layer, slot, false, kv_head); }
  CachedRows values(int layer, int slot, int kv_head) const { return rows(layer, slot, true, kv_head); }

 private:
  size_t offset(int layer, int slot, bool value, int kv_head) const;
  CachedRows rows(int layer, int slot, bool value, int kv_head) const;

  const KernelTable& kernels_;
  CacheType type_;
  int slots_, context_, kv_heads_, head_dim_;
  size_t row_bytes_;
  AlignedBuffer<std::byte> data_;  // [layer][slot][key, value][kv_head][context][row_bytes_]
};

}  // namespace nibble
