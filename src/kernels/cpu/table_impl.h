// The table of one instruction set out of the generic kernels.
#pragma once

#include "kernels/cpu/dense_impl.h"
#include "kernels/cpu/elementwise_impl.h"
#include "kernels/cpu/gram_impl.h"
#include "kernels/cpu/packed_i8_impl.h"
#include "kernels/cpu/packed_impl.h"
#include "kernels/cpu/peak_impl.h"

namespace nibble {
namespace {

// Everything but the name and the operations on bf16 pairs.
template <class V>
constexpr KernelTable table_of() {
  KernelTable t;
  t.dense_f32 = dense_linear<V, DotF32<V>>;
  t.dense_bf16 = dense_linear<V, DotBf16<V>>;
  t.dense_f16 = dense_linear<V, DotF16<V>>;
  t.packed_f32 = packed_f32<V>;
  t.int8_steps = V::kSteps;
  t.packed_i8 = packed_i8<V>;
  t.quantize_i8 = quantize_i8<V>;
  t.to_i8 = to_i8<V>;
  t.to_f16 = to_f16<V>;
  t.from_f16 = from_f16<V>;
  t.from_i8 = from_i8<V>;
  t.rms_norm = rms_norm<V>;
  t.layer_norm = layer_norm<V>;
  t.add = add<V>;
  t.silu_mul = silu_mul<V>;
  t.gelu_new = gelu_new<V>;
  t.exp_sum = exp_sum<V>;
  t.max = max_of<V>;
  t.scale_add = scale_add<V>;
  t.axpy = axpy<V>;
  t.weighted_sums = weighted_sums<V>;
  t.products_i16 = products_i16<V>;
  t.peak_i8 = peak_i8<V>;
  t.peak_dense = peak_f32<V>;
  return t;
}

}  // namespace
}  // namespace nibble
