// What matrix tiles replace in a table.
#pragma once

#include "kernels/cpu/attention_tiles_impl.h"
#include "kernels/cpu/gram_tiles_impl.h"
#include "kernels/cpu/tiles_impl.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

template <class T, class V>
void put_tiles_into(KernelTable& t) {
  t.bf16_tiles = t.bf16_pays = true;
  t.dense_bf16_bf16 = dense_by_tiles<T, V>;
  t.packed_bf16 = packed_bf16<T, V>;
  t.tile_query = tile_query<T, V>;
  t.attend_tiles = attend_tiles<T, V>;
  t.gram_step = gram_step<T, V>;
  t.gram_bf16 = gram_bf16<T, V>;
}

}  // namespace
}  // namespace nibble
