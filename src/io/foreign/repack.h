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
// Its entry of quantization_config.linears, and the format that such an entry says; throws Error naming
// `where`.
OrderedJson packed_entry(const std::string& method, const PackedFormat& format, bool ordered);
PackedFormat packed_format(const Json& entry, int64_t n, int64_t k, const std::string& where);

// The least layout version of packed tensors in a nibble directory (tensor/packed.h) that knows this
// linear's: 2 for the wider forms and an order of its inputs, 3 for scales of bytes.
inline constexpr int kLayoutVersion = 3;
int layout_version(const PackedFormat& format, bool ordered);

}  // namespace nibble
