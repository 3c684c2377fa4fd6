// AVX-512 behind the names that the generic kernels use. Included only by *_avx512.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kMaxRows = 6;      // rows of x in a dense tile: 6·4 sums + 6 + 1 of 32 registers
  static constexpr int kPackedRows = 12;  // rows of x in a float tile of packed weights
  static constexpr bool kSteps = false;   // products of a segment are added by its scale
  static constexpr int kPeakSums = 12;    // of packed products at full speed

  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float v) { return _mm512_set1_ps(v); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store(float* p, F v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F load_bf16(const uint16_t* p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_bf16(const uint16_t* p, int64_t n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_f16(const uint16_t* p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static void store_f16(uint16_t* p, F v, int64_t n) {
    _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }    // a·b − c
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c − a·b
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // a where x >= limit, else 0.
  static F keep_if_at_least(F a, F x, F limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), a);
  }
  static F pow2(F integer) {  // 2^integer for integers in [−126, 127]
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(integer), _mm512_set1_epi32(127)), 23));
  }
  // Lane i of the result: the sum of the i-th argument's lanes.
  static __m128 reduce(F a, F b, F c, F d) {
    const __m256 ab = _mm256_hadd_ps(fold(a), fold(b)), cd = _mm256_hadd_ps(fold(c), fold(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }

  static I izero() { return _mm512_setzero_si512(); }
  static I iset(int32_t v) { return _mm512_set1_epi32(v); }
  static I ibroadcast(const int8_t* four) {
    int32_t v;
    __builtin_memcpy(&v, four, 4);
    return _mm512_set1_epi32(v);
  }
  static I iload(const void* p) { return _mm512_loadu_si512(p); }
  static void istore(void* p, I v) { _mm512_storeu_si512(p, v); }
  static I iand(I a, I b) { return _mm512_and_si512(a, b); }
  static I ior(I a, I b) { return _mm512_or_si512(a, b); }
  static I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  template <int N>
  static I shr(I a) {
    return _mm512_srli_epi32(a, N);
  }
  template <int N>
  static I shl(I a) {
    return _mm512_slli_epi32(a, N);
  }
  static I to_int(F a) { return _mm512_cvtps_epi32(a); }  // to nearest even
  static void store_i8(int8_t* p, I v, int64_t n) {       // of the first n lanes, all within int8
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(v));
  }
  static I load_i8(const int8_t* p, int64_t n) {
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(n), p));
  }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I bits(F a) { return _mm512_castps_si512(a); }
  static F as_float(I a) { return _mm512_castsi512_ps(a); }
  static I load_u16(const void* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static I load_u8(const void* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  // Rows [16 h, …) of the zero points of one group: 8 bytes, low nibbles rows 0–7, high 8–15.
  static I load_zero_nibbles(const uint8_t* p, int /*half*/) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
    return _mm512_cvtepu8_epi32(_mm_and_si128(both, _mm_set1_epi8(15)));
  }
  // sum + the products of 16 inputs: byte j of a lane of u[i] is input 4i+j's code, s[4i+j] its activation.
  template <int kBits>
  static I dot16(I sum, const I (&u)[4], const int8_t* s) {
    for (int i = 0; i < 4; ++i) sum = _mm512_dpbusd_epi32(sum, u[i], ibroadcast(s + 4 * i));
    return sum;
  }
  // The same of two panels' codes from 0, each activation loaded once for both.
  static void dot16_of_two(I (&dot)[2], const I (&a)[4], const I (&b)[4], const int8_t* s) {
    dot[0] = dot[1] = izero();
    for (int i = 0; i < 4; ++i) {
      I act = ibroadcast(s + 4 * i);
      asm("" : "+v"(act));  // in a register, not twice out of memory
      dot[0] = _mm512_dpbusd_epi32(dot[0], a[i], act), dot[1] = _mm512_dpbusd_epi32(dot[1], b[i], act);
    }
  }
  // acc + Σ over the two int16 of each lane.
  static I dot16(I acc, I a, I b) { return _mm512_dpwssd_epi32(acc, a, b); }

 private:
  static F widen_bf16(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  static __m256 fold(F v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
};

}  // namespace
}  // namespace nibble
