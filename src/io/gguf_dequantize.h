// ggml's tensor types as they lie in a file, and their expansion to 16 or 32 bits.
// Source: ggml-common.h (block layouts) and ggml-quants.c (dequantize_row_*) of ggml.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "io/checkpoint.h"

namespace nibble {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;
  size_t block_elements;  // a row is a whole number of blocks
  size_t block_bytes;
};

// nullptr for a number that is not one of the types above.
const GgmlTypeInfo* find_ggml_type(uint32_t number);
const GgmlTypeInfo& ggml_type_info(GgmlType type);
bool is_quantized(GgmlType type);

// Expands `elements` values (a whole number of blocks) of a quantized type to bf16 or float32.
// Arithmetic in float32, in ggml's order of operations; bf16 is rounded to nearest even.
// `destination` holds elements × 2 or × 4 bytes, aligned to them; `source` needs no alignment.
void dequantize(GgmlType type, const std::byte* source, size_t elements, GgufDType dtype,
                std::byte* destination);

}  // namespace nibble
