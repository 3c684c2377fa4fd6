// Where a session computes, and what its arithmetic is done in.
#pragma once

namespace nibble {

enum class Device { kCpu, kCuda };

enum class CacheType {
  kF32,
  kF16,
  kI8,  // with a float32 scale a head and position: half of fp16's size and 4 bytes
};

struct Precision {
  bool bf16 = true;                   // dense linears: activations rounded to bf16 where the processor has
                                      // the instruction and the weights are bf16; false: float32
  bool int8 = true;                   // packed linears: activations as int8 (GPU: bf16); false: float32
  CacheType cache = CacheType::kF16;  // of keys and values
  Device device = Device::kCpu;
  static Precision exact() { return {false, false, CacheType::kF32}; }
};

}  // namespace nibble
