// Models that other tools quantized, turned at load into the packed layout of this program's kernels:
// integers, scales and zero points are kept as they are.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "tensor/packed.h"

namespace nibble {

// Whether config.json's quantization_config names a method of another tool (read here or not).
bool has_foreign_quantization(const Json& config);

// Replaces the tensors of every quantized linear by NAME.codes, .scales, .zeros and, of act-order, .order,
// and the configuration's quantization_config by nibble's with its `source` beside it; the format becomes
// "gptq", "awq" or "compressed-tensors". Throws Error for what cannot be read exactly.
void repack_foreign(Checkpoint& checkpoint);

// The tensors of a packed weight, views of it, as a nibble directory holds them (names with their suffixes).
void add_packed_tensors(const std::string& name, const PackedView& weight, const std::vector<int32_t>& order,
                        std::vector<std::pair<std::string, TensorView>>& out);
// Sorts them so that each lies at a multiple of what it needs when written one after another.
void order_for_mapping(std::vector<std::pair<std::string, TensorView>>& tensors);
// Its entry of quantization_config.linears.
OrderedJson packed_entry(const std::string& method, const PackedFormat& format, bool ordered);

// Layout versions of packed tensors in a nibble directory (tensor/packed.h): 2 where a linear has one of the
// wider forms or an order of its inputs, which version 1 did not know.
inline constexpr int kLayoutVersion = 2;
constexpr int layout_version(bool any_wider) { return any_wider ? 2 : 1; }
inline bool needs_layout_2(const PackedFormat& format, bool ordered) {
  return ordered || format.float_scales || format.wide_zeros;
}

}  // namespace nibble
