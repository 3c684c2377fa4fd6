// GPTQ as AutoGPTQ, GPTQModel and AutoRound store it: qweight I32 [k·bits/32, n], packed along the inputs;
// qzeros I32 [groups, n·bits/32], packed along the outputs; scales F16 [groups, n]; g_idx I32 [k]. w = s·(q −
// z).
#pragma once

#include <string>
#include <vector>

#include "io/foreign/foreign_linear.h"

namespace nibble {

// What qzeros holds. Version 1 holds z − 1: most readers add 1 to each value, so that z is 1 … 2^bits;
// GPTQModel adds and subtracts it in whole words, with carries, so that a z of 0 survives.
enum class GptqZeros { kMinusOne, kMinusOneCarried, kPlain };

ForeignLinear read_gptq(const TensorMap& tensors, const std::string& name, const ForeignFormat& format,
                        GptqZeros zeros, const std::string& where);

// Whether every zero point of the linear, as stored, is `value`.
bool gptq_zeros_are(const TensorMap& tensors, const std::string& name, int bits, int value,
                    const std::string& where);

// Tensors of a linear of this shape, not yet filled.
std::vector<ForeignTensor> gptq_tensors(const PackedFormat& format);
void fill_gptq(const ForeignLinear& linear, GptqZeros zeros, std::vector<ForeignTensor>& out);

}  // namespace nibble
