#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table_avx2.h"

namespace nibble {
namespace {

constexpr KernelTable kTable = avx2_table_of<Avx2>("avx2");

}  // namespace

const KernelTable* isa::avx2() {
  // Every processor with AVX2 converts fp16, too (F16C).
  const bool here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return here ? &kTable : nullptr;
}

}  // namespace nibble
