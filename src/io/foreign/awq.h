// AWQ in AutoAWQ's "gemm" layout: qweight I32 [k, n/8], qzeros I32 [groups, n/8], scales F16 [groups, n]; 4
// bits; nibble i of word c is output 8c + (0, 2, 4, 6, 1, 3, 5, 7)[i]. w = s·(q − z).
#pragma once

#include <string>
#include <vector>

#include "io/foreign/foreign_linear.h"

namespace nibble {

ForeignLinear read_awq(const TensorMap& tensors, const std::string& name, const ForeignFormat& format,
                       const std::string& where);

std::vector<ForeignTensor> awq_tensors(const PackedFormat& format);  // not yet filled
void fill_awq(const ForeignLinear& linear, std::vector<ForeignTensor>& out);

}  // namespace nibble
