#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table_impl.h"

namespace nibble {
namespace {

// Integer arithmetic as in float_to_bf16.
void to_bf16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    y[i] = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : rounded);
  }
}

constexpr KernelTable make() {
  KernelTable t = table_of<Avx2>();
  t.name = "avx2";
  t.to_bf16 = to_bf16;
  return t;
}
constexpr KernelTable kTable = make();

}  // namespace

const KernelTable* isa::avx2() {
  const bool here =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return here ? &kTable : nullptr;
}

}  // namespace nibble
