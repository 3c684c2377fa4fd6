// Causal attention of one key/value head for a few consecutive queries, by online softmax over
// blocks of keys (Milakov & Gimelshein 2018; Dao 2022): scratch does not grow with the context.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"
#include "model/kv_cache.h"

namespace nibble {

inline constexpr int kAttentionQueries = 32;  // positions a task

struct AttentionTask {
  const float* q = nullptr;  // query i, repeat r at q + i·stride + r·head_dim, already scaled
  float* out = nullptr;      // laid out as q
  int64_t stride = 0;
  CachedRows keys, values;
  int first_position = 0;  // of query 0; query i sees positions 0 … first_position + i
  int queries = 0;         // at most kAttentionQueries
  int repeats = 1;         // query heads that share this key/value head
  int head_dim = 0;
  bool by_tiles = false;  // KernelTable::attend_tiles, which must be there
};

// Floats that attend() needs; by_tiles: whether a task may be by tiles.
size_t attention_scratch(int head_dim, int repeats, bool by_tiles);

void attend(const KernelTable& kernels, const AttentionTask& task, float* scratch);

}  // namespace nibble
