// Element types of tensors and the conversions between the 16-bit ones and float32.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nibble {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

size_t dtype_size(DType dtype);                // bytes of one element
std::string_view dtype_name(DType dtype);      // as safetensors spells it: "F32", "BF16", …
DType dtype_from_name(std::string_view name);  // throws Error for a name that is not supported

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Rounds to nearest even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float fp16_to_float(uint16_t bits);
uint16_t float_to_fp16(float value);  // rounds to nearest even; overflow gives infinity
inline float rounded_to_fp16(float value) { return fp16_to_float(float_to_fp16(value)); }

}  // namespace nibble
