// What the arithmetic of a session is done in.
#pragma once

namespace nibble {

enum class CacheType {
  kF32,
  kF16,
  kI8,  // with a float32 scale a head and position: half of fp16's size and 4 bytes
};

struct Precision {
  bool bf16 = true;                   // dense linears: activations rounded to bf16 where the processor has
                                      // the instruction and the weights are bf16; false: float32
  bool int8 = true;                   // packed linears: activations as int8; false: float32
  CacheType cache = CacheType::kF16;  // of keys and values
  static Precision exact() { return {false, false, CacheType::kF32}; }
};

}  // namespace nibble
