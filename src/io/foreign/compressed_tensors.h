// compressed-tensors, format "pack-quantized": weight_packed I32 [n, ⌈k·bits/32⌉] (signed codes + 2^(bits−1),
// packed along the inputs), weight_scale [n, groups], weight_shape I64 [2], weight_zero_point I32
// [⌈n·bits/32⌉, groups] with the same offset, packed along the outputs, weight_g_idx I32 [k] of act-order. w
// = s·(q − z).
#pragma once

#include <string>
#include <vector>

#include "io/foreign/foreign_linear.h"

namespace nibble {

ForeignLinear read_compressed_tensors(const TensorMap& tensors, const std::string& name,
                                      const ForeignFormat& format, const std::string& where);

// Not yet filled. Scales are F16, or F32 where the format has float scales.
std::vector<ForeignTensor> compressed_tensors_tensors(const PackedFormat& format, bool ordered);
void fill_compressed_tensors(const ForeignLinear& linear, std::vector<ForeignTensor>& out);

}  // namespace nibble
