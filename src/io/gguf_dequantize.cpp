#include "io/gguf_dequantize.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "io/gguf_encoding.h"
#include "tensor/dtype.h"

namespace nibble {
namespace {

constexpr size_t kSmall = 32, kSuper = 256;  // elements of a block and of a K-quant super-block

constexpr std::array<GgmlTypeInfo, 11> kTypes = {{{GgmlType::kF32, "F32", 1, 4},
                                                  {GgmlType::kF16, "F16", 1, 2},
                                                  {GgmlType::kBF16, "BF16", 1, 2},
                                                  {GgmlType::kQ4_0, "Q4_0", kSmall, 18},
                                                  {GgmlType::kQ4_1, "Q4_1", kSmall, 20},
                                                  {GgmlType::kQ5_0, "Q5_0", kSmall, 22},
                                                  {GgmlType::kQ5_1, "Q5_1", kSmall, 24},
                                                  {GgmlType::kQ8_0, "Q8_0", kSmall, 34},
                                                  {GgmlType::kQ4_K, "Q4_K", kSuper, 144},
                                                  {GgmlType::kQ5_K, "Q5_K", kSuper, 176},
                                                  {GgmlType::kQ6_K, "Q6_K", kSuper, 210}}};

uint32_t u8(const std::byte* p) { return static_cast<uint32_t>(*p); }
int32_t i8(const std::byte* p) { return static_cast<int8_t>(*p); }

float half_at(const std::byte* p) { return fp16_to_float(gguf::load<uint16_t>(p)); }

// Each expands one block of the type to float32.

void block_q4_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  const std::byte* qs = block + 2;
  for (size_t j = 0; j < kSmall / 2; ++j) {
    y[j] = static_cast<float>(static_cast<int32_t>(u8(qs + j) & 15) - 8) * d;
    y[j + kSmall / 2] = static_cast<float>(static_cast<int32_t>(u8(qs + j) >> 4) - 8) * d;
  }
}

void block_q4_1(const std::byte* block, float* y) {
  const float d = half_at(block), m = half_at(block + 2);
  const std::byte* qs = block + 4;
  for (size_t j = 0; j < kSmall / 2; ++j) {
    y[j] = static_cast<float>(u8(qs + j) & 15) * d + m;
    y[j + kSmall / 2] = static_cast<float>(u8(qs + j) >> 4) * d + m;
  }
}

// The fifth bit of element i is bit i of the word `high`.
void block_q5_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  const uint32_t high = gguf::load<uint32_t>(block + 2);
  const std::byte* qs = block + 6;
  for (size_t j = 0; j < kSmall / 2; ++j) {
    const uint32_t q0 = (u8(qs + j) & 15) | (high >> j & 1) << 4;
    const uint32_t q1 = u8(qs + j) >> 4 | (high >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(static_cast<int32_t>(q0) - 16) * d;
    y[j + kSmall / 2] = static_cast<float>(static_cast<int32_t>(q1) - 16) * d;
  }
}

void block_q5_1(const std::byte* block, float* y) {
  const float d = half_at(block), m = half_at(block + 2);
  const uint32_t high = gguf::load<uint32_t>(block + 4);
  const std::byte* qs = block + 8;
  for (size_t j = 0; j < kSmall / 2; ++j) {
    const uint32_t q0 = (u8(qs + j) & 15) | (high >> j & 1) << 4;
    const uint32_t q1 = u8(qs + j) >> 4 | (high >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(q0) * d + m;
    y[j + kSmall / 2] = static_cast<float>(q1) * d + m;
  }
}

void block_q8_0(const std::byte* block, float* y) {
  const float d = half_at(block);
  for (size_t j = 0; j < kSmall; ++j) y[j] = static_cast<float>(i8(block + 2 + j)) * d;
}

struct ScaleMin {
  float scale, min;
};

// Scale and minimum of the 32 elements number j (0 … 7): 6 bits each, packed in 12 bytes.
ScaleMin k_scale_min(const std::byte* packed, size_t j) {
  if (j < 4) return {static_cast<float>(u8(packed + j) & 63), static_cast<float>(u8(packed + j + 4) & 63)};
  const uint32_t scale = (u8(packed + j + 4) & 15) | u8(packed + j - 4) >> 6 << 4;
  const uint32_t min = u8(packed + j + 4) >> 4 | u8(packed + j) >> 6 << 4;
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// Q4_K and, with `high` (32 bytes; bit j of byte i is the fifth bit of element 32 j + i), Q5_K.
void block_k4(const std::byte* block, const std::byte* high, const std::byte* qs, float* y) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (size_t j = 0; j < 8; ++j, y += 32) {
    const ScaleMin sm = k_scale_min(block + 4, j);
    const float scale = d * sm.scale, min = dmin * sm.min;
    const std::byte* q = qs + j / 2 * 32;
    for (size_t i = 0; i < 32; ++i) {
      const uint32_t low = j % 2 ? u8(q + i) >> 4 : u8(q + i) & 15;
      const uint32_t fifth = high ? (u8(high + i) >> j & 1) << 4 : 0;
      y[i] = scale * static_cast<float>(low | fifth) - min;
    }
  }
}

void block_q4_k(const std::byte* block, float* y) { block_k4(block, nullptr, block + 16, y); }
void block_q5_k(const std::byte* block, float* y) { block_k4(block, block + 16, block + 48, y); }

void block_q6_k(const std::byte* block, float* y) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const float d = half_at(block + 208);
  // Two halves of 128; in each, four runs of 32 share 64 bytes of low and 32 bytes of high bits.
  for (size_t half = 0; half < 2; ++half) {
    for (size_t run = 0; run < 4; ++run) {
      for (size_t i = 0; i < 32; ++i) {
        const uint32_t nibbles = u8(low + half * 64 + run % 2 * 32 + i);
        const uint32_t lower = run < 2 ? nibbles & 15 : nibbles >> 4;
        const uint32_t upper = u8(high + half * 32 + i) >> 2 * run & 3;
        const float scale = d * static_cast<float>(i8(scales + half * 8 + run * 2 + i / 16));
        *y++ = scale * static_cast<float>(static_cast<int32_t>(lower | upper << 4) - 32);
      }
    }
  }
}

// One block at a time goes through a small float array; no tensor-sized temporary exists.
template <void (*Expand)(const std::byte*, float*)>
void expand(const GgmlTypeInfo& info, const std::byte* source, size_t elements, GgufDType dtype,
            std::byte* destination) {
  float values[kSuper];
  const size_t n = info.block_elements;
  for (size_t at = 0; at < elements; at += n, source += info.block_bytes) {
    if (dtype == GgufDType::kF32) {
      Expand(source, reinterpret_cast<float*>(destination) + at);
      continue;
    }
    Expand(source, values);
    uint16_t* out = reinterpret_cast<uint16_t*>(destination) + at;
    for (size_t i = 0; i < n; ++i) out[i] = float_to_bf16(values[i]);
  }
}

}  // namespace

const GgmlTypeInfo* find_ggml_type(uint32_t number) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == number) return &info;
  }
  return nullptr;
}

const GgmlTypeInfo& ggml_type_info(GgmlType type) {
  const GgmlTypeInfo* info = find_ggml_type(static_cast<uint32_t>(type));
  NIBBLE_CHECK(info != nullptr);
  return *info;
}

bool is_quantized(GgmlType type) { return ggml_type_info(type).block_elements > 1; }

void dequantize(GgmlType type, const std::byte* source, size_t elements, GgufDType dtype,
                std::byte* destination) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  NIBBLE_CHECK(elements % info.block_elements == 0);
  switch (type) {
    case GgmlType::kQ4_0:
      return expand<block_q4_0>(info, source, elements, dtype, destination);
    case GgmlType::kQ4_1:
      return expand<block_q4_1>(info, source, elements, dtype, destination);
    case GgmlType::kQ5_0:
      return expand<block_q5_0>(info, source, elements, dtype, destination);
    case GgmlType::kQ5_1:
      return expand<block_q5_1>(info, source, elements, dtype, destination);
    case GgmlType::kQ8_0:
      return expand<block_q8_0>(info, source, elements, dtype, destination);
    case GgmlType::kQ4_K:
      return expand<block_q4_k>(info, source, elements, dtype, destination);
    case GgmlType::kQ5_K:
      return expand<block_q5_k>(info, source, elements, dtype, destination);
    case GgmlType::kQ6_K:
      return expand<block_q6_k>(info, source, elements, dtype, destination);
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16:
      break;
  }
  NIBBLE_CHECK(is_quantized(type));
}

}  // namespace nibble
