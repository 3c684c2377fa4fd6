// AVX2 with VPDPBUSD in its VEX form (AVX-VNNI): processors without AVX-512 since Alder Lake and Zen 5.
#include <cpuid.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table_avx2.h"

namespace nibble {
namespace {

struct AvxVnni : Avx2 {
  static constexpr int kPeakSums = 8;
  static constexpr bool kSteps = false;

  template <int kBits>
  static I dot16(I sum, const I (&u)[4], const int8_t* s) {
    for (int i = 0; i < 4; ++i) sum = _mm256_dpbusd_avx_epi32(sum, u[i], ibroadcast(s + 4 * i));
    return sum;
  }
  static I dot16(I acc, I a, I b) { return _mm256_dpwssd_avx_epi32(acc, a, b); }
};

constexpr KernelTable kTable = avx2_table_of<AvxVnni>("avxvnni");

}  // namespace

const KernelTable* isa::avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;  // leaf 7, subleaf 1, EAX bit 4: clang++ 14 has no name for it
  const bool here = isa::avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
  return here ? &kTable : nullptr;
}

}  // namespace nibble
