#include <cpuid.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table_impl.h"

namespace nibble {
namespace {

// Pairs of bf16 products summed in float32 (VDPBF16PS).
struct DotBf16Bf16 {
  using X = uint16_t;
  using W = uint16_t;
  using Acc = __m512;
  using Reg = __m512bh;
  static constexpr int kStep = 32;
  static Acc zero() { return _mm512_setzero_ps(); }
  static Reg load_x(const X* p) { return load(p, ~0u); }
  static Reg load_x(const X* p, int64_t n) { return load(p, (1u << n) - 1u); }
  static Reg load_w(const W* p) { return load_x(p); }
  static Reg load_w(const W* p, int64_t n) { return load_x(p, n); }
  static Acc mac(Acc acc, Reg x, Reg w) { return _mm512_dpbf16_ps(acc, x, w); }

 private:
  static Reg load(const uint16_t* p, __mmask32 mask) { return (Reg)_mm512_maskz_loadu_epi16(mask, p); }
};

void to_bf16(const float* x, uint16_t* y, int64_t n) {
  for_vectors<Avx512>(n, [&](int64_t i, int64_t count) {
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(Avx512::load(x + i, count));
    _mm256_mask_storeu_epi16(y + i, Avx512::first(count), half);
  });
}

void to_bf16_plain(const float* x, uint16_t* y, int64_t n) {
  for_vectors<Avx512>(n, [&](int64_t i, int64_t count) {
    const __m512i bits = _mm512_castps_si512(Avx512::load(x + i, count));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan =
        _mm512_cmp_ps_mask(_mm512_castsi512_ps(bits), _mm512_castsi512_ps(bits), _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_mask_storeu_epi16(y + i, Avx512::first(count), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
  });
}

double peak_bf16(int64_t rounds) {
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3a83);  // about 1e-3
  return peak_of(rounds, _mm512_setzero_ps(), 32, [&](__m512 sum) { return _mm512_dpbf16_ps(sum, a, a); });
}

// pays: whether a VDPBF16PS takes less time than two products of float32.
constexpr KernelTable make(bool bf16, bool pays) {
  KernelTable t = table_of<Avx512>();
  t.name = "avx512";
  t.to_bf16 = bf16 ? to_bf16 : to_bf16_plain;
  t.bf16_pays = pays;
  if (pays) t.peak_dense = peak_bf16;
  if (bf16) {
    t.dense_bf16_bf16 = [](const DenseView& w, const uint16_t* x, const float* bias, float* y, int64_t ldy,
                           int64_t m, int64_t n_begin, int64_t n_end) {
      dense_linear<Avx512, DotBf16Bf16>(w, x, w.k, bias, y, ldy, m, n_begin, n_end);
    };
  }
  return t;
}
constexpr KernelTable kFastBf16 = make(true, true), kSlowBf16 = make(true, false),
                      kWithoutBf16 = make(false, false);

}  // namespace

const KernelTable* isa::avx512() {
  const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
  if (!here) return nullptr;
  if (!__builtin_cpu_supports("avx512bf16")) return &kWithoutBf16;
  // Intel's processors with tiles, which are those with AVX512-FP16, leave bf16 to them.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool fp16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
  return __builtin_cpu_is("intel") && fp16 ? &kSlowBf16 : &kFastBf16;
}

}  // namespace nibble
