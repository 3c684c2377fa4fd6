// Words by which a step's parts tell each other their numbers (step_part.h): whoever needs one reads it until
// it is there, so that no order among them is asked of memory.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/step_part.h"

namespace nibble::cuda {
namespace {

// v = what lies there, where it is wanted; without a branch.
__device__ __forceinline__ void read_message(uint4& v, const void* from, bool wanted) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %5, 0;\n"
      "@wanted ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}\n"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(from), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}
__device__ __forceinline__ bool is_nothing(const uint4& v) {
  return max(max(v.x, v.y), max(v.z, v.w)) == kNothing;
}
// By whole warps: v[r] = what lies at from(r), until all of it is there; 0 where it is not wanted(r).
template <int kCount, typename Wanted, typename From>
__device__ __forceinline__ void read_messages(uint4 (&v)[kCount], bool awaited, const Wanted& wanted,
                                              const From& from) {
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    v[r] = make_uint4(0, 0, 0, 0);
    read_message(v[r], from(r), wanted(r));
  }
  if (!awaited) return;
  while (true) {
    bool missing = false;
#pragma unroll
    for (int r = 0; r < kCount; ++r) missing |= is_nothing(v[r]);
    if (!__any_sync(0xffffffffu, missing)) return;
#pragma unroll
    for (int r = 0; r < kCount; ++r) read_message(v[r], from(r), is_nothing(v[r]));
  }
}

__device__ __forceinline__ float4 as_floats(const uint4& v) {
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

__device__ __forceinline__ uint32_t read_word(const void* from) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
// `word`, read from there before, once it is there.
__device__ __forceinline__ float number_of(uint32_t word, const float* from, bool awaited) {
  while (awaited && word == kNothing) word = read_word(from);
  return __uint_as_float(word);
}

__device__ __forceinline__ void send_word(void* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
// An input of a linear, two to a word: by every lane of a warp, of which each two neighbours have neighbours.
__device__ __forceinline__ void send_input(__half* to, float value, bool there) {
  const uint32_t own = __half_as_ushort(__float2half_rn(value * (1 / kInputUnit))),
                 other = __shfl_xor_sync(0xffffffffu, own, 1);
  if (there && threadIdx.x % 2 == 0) send_word(to, own | other << 16);
}

// Where a message of the first set lies in the set of this step.
template <typename T>
__device__ __forceinline__ T* in_set(T* pointer, bool message, uint32_t set) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + (message ? set : 0));
}

}  // namespace
}  // namespace nibble::cuda
