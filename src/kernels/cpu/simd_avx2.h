// AVX2, FMA and F16C behind the names that the generic kernels use. Included only by *_avx2.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble {
namespace {

struct Avx2 {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 3;  // 3·4 sums + 3 + 1 of 16 registers
  static constexpr int kPackedRows = 6;
  static constexpr bool kSteps = true;  // products of a block are added as integers, by dot16's factor
  static constexpr int kPeakSums = 4;   // of packed products at full speed: 4 + 4 codes + 4 inputs + 3

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float v) { return _mm256_set1_ps(v); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store(float* p, F v, int64_t n) {  // whole vectors apart: masked stores are slow on AMD
    if (n == kLanes) return store(p, v);
    _mm256_maskstore_ps(p, first(n), v);
  }
  static F load_bf16(const uint16_t* p) {
    return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_bf16(const uint16_t* p, int64_t n) { return widen_bf16(partial16(p, n)); }
  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_f16(const uint16_t* p, int64_t n) { return _mm256_cvtph_ps(partial16(p, n)); }
  static void store_f16(uint16_t* p, F v, int64_t n) {
    alignas(16) uint16_t half[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(half),
                    _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (int64_t i = 0; i < n; ++i) p[i] = half[i];
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }  // a·b − c
  static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F keep_if_at_least(F a, F x, F limit) {
    return _mm256_and_ps(a, _mm256_cmp_ps(x, limit, _CMP_GE_OQ));
  }
  static F pow2(F integer) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(integer), _mm256_set1_epi32(127)), 23));
  }
  static __m128 reduce(F a, F b, F c, F d) {
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  }
  static float largest(F a) {
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
  }

  static I izero() { return _mm256_setzero_si256(); }
  static I iset(int32_t v) { return _mm256_set1_epi32(v); }
  static I ibroadcast(const int8_t* four) {
    int32_t v;
    __builtin_memcpy(&v, four, 4);
    return _mm256_set1_epi32(v);
  }
  static I iload(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void istore(void* p, I v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static I iand(I a, I b) { return _mm256_and_si256(a, b); }
  static I ior(I a, I b) { return _mm256_or_si256(a, b); }
  static I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I imul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  template <int N>
  static I shr(I a) {
    return _mm256_srli_epi32(a, N);
  }
  template <int N>
  static I shl(I a) {
    return _mm256_slli_epi32(a, N);
  }
  static I to_int(F a) { return _mm256_cvtps_epi32(a); }
  static void store_i8(int8_t* p, I v, int64_t n) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    if (n == kLanes) return _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
    alignas(16) int8_t all[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(all), bytes);
    for (int64_t i = 0; i < n; ++i) p[i] = all[i];
  }
  static I load_i8(const int8_t* p, int64_t n) {
    if (n == kLanes) return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    alignas(16) int8_t all[16] = {};
    for (int64_t i = 0; i < n; ++i) all[i] = p[i];
    return _mm256_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(all)));
  }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  static I bits(F a) { return _mm256_castps_si256(a); }
  static F as_float(I a) { return _mm256_castsi256_ps(a); }
  static I load_u16(const void* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static I load_u8(const void* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  }
  static I load_zero_nibbles(const uint8_t* p, int half) {
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    if (half) bytes = _mm_srli_epi16(bytes, 4);
    return _mm256_cvtepu8_epi32(_mm_and_si128(bytes, _mm_set1_epi8(15)));
  }
  // sum + factor · the products of 16 inputs: byte j of a lane of u[i] is input 4i+j's code, s[4i+j] its
  // activation, the factor in both halves of every lane. Pairs of products are added in int16 while they fit:
  // 4 · 2·15·127 with up to 4 bits, 2 · 2·63·127 with 6; 8-bit codes are split into nibbles.
  template <int kBits>
  static I dot16(I sum, const I (&u)[4], const int8_t* s, I factor = _mm256_set1_epi16(1)) {
    const I low = _mm256_set1_epi8(15);
    const auto pairs = [&](I codes, int i) { return _mm256_maddubs_epi16(codes, ibroadcast(s + 4 * i)); };
    const auto plus = [](I a, I b) { return _mm256_add_epi16(a, b); };
    const auto wide = [&](I a) { return _mm256_madd_epi16(a, factor); };
    if constexpr (kBits <= 4) {
      I all = pairs(u[0], 0);  // in a row: two registers beside the sums and the codes
      for (int i = 1; i < 4; ++i) all = plus(all, pairs(u[i], i));
      return _mm256_add_epi32(sum, wide(all));
    } else if constexpr (kBits <= 6) {
      const I a = wide(plus(pairs(u[0], 0), pairs(u[1], 1))), b = wide(plus(pairs(u[2], 2), pairs(u[3], 3)));
      return _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
    } else {
      I lo[4], hi[4];
      for (int i = 0; i < 4; ++i) {
        lo[i] = pairs(_mm256_and_si256(u[i], low), i);
        hi[i] = pairs(_mm256_and_si256(_mm256_srli_epi16(u[i], 4), low), i);
      }
      const I a = wide(plus(plus(lo[0], lo[1]), plus(lo[2], lo[3])));
      const I b = wide(plus(plus(hi[0], hi[1]), plus(hi[2], hi[3])));
      return _mm256_add_epi32(sum, _mm256_add_epi32(a, _mm256_slli_epi32(b, 4)));
    }
  }
  // The same for a tile of 8 rows and a segment of 4-bit codes as it lies in its panel (half of two chunks):
  // sum[r] += steps[r] · the products of s[16r …]. In the processor's own words, since compilers keep some of
  // the sums in memory here.
  static void tile_dot16(I (&sum)[8], const uint8_t* codes, const int8_t* s, const int32_t* steps) {
    const I mask = _mm256_set1_epi8(15);
#define NIBBLE_ROW(R)                                                     \
  "vpbroadcastd 16*" #R                                                   \
  "(%[s]), %%ymm12\n vpmaddubsw %%ymm12, %%ymm8, %%ymm12\n"               \
  "vpbroadcastd 16*" #R                                                   \
  "+4(%[s]), %%ymm13\n vpmaddubsw %%ymm13, %%ymm9, %%ymm13\n"             \
  "vpaddw %%ymm13, %%ymm12, %%ymm12\n"                                    \
  "vpbroadcastd 16*" #R                                                   \
  "+8(%[s]), %%ymm13\n vpmaddubsw %%ymm13, %%ymm10, %%ymm13\n"            \
  "vpbroadcastd 16*" #R                                                   \
  "+12(%[s]), %%ymm14\n vpmaddubsw %%ymm14, %%ymm11, %%ymm14\n"           \
  "vpaddw %%ymm14, %%ymm13, %%ymm13\n vpaddw %%ymm13, %%ymm12, %%ymm12\n" \
  "vpbroadcastd 4*" #R                                                    \
  "(%[t]), %%ymm13\n vpmaddwd %%ymm13, %%ymm12, %%ymm12\n"                \
  "vpaddd %%ymm12, %[sum" #R "], %[sum" #R "]\n"
    asm("vmovdqu (%[w]), %%ymm8\n vmovdqu 64(%[w]), %%ymm10\n"
        "vpsrld $4, %%ymm8, %%ymm9\n vpsrld $4, %%ymm10, %%ymm11\n"
        "vpand %[mask], %%ymm8, %%ymm8\n vpand %[mask], %%ymm9, %%ymm9\n"
        "vpand %[mask], %%ymm10, %%ymm10\n vpand %[mask], %%ymm11, %%ymm11\n"  //
        NIBBLE_ROW(0) NIBBLE_ROW(1) NIBBLE_ROW(2) NIBBLE_ROW(3)                //
        NIBBLE_ROW(4) NIBBLE_ROW(5) NIBBLE_ROW(6) NIBBLE_ROW(7)
        : [sum0] "+x"(sum[0]), [sum1] "+x"(sum[1]), [sum2] "+x"(sum[2]), [sum3] "+x"(sum[3]),
          [sum4] "+x"(sum[4]), [sum5] "+x"(sum[5]), [sum6] "+x"(sum[6]), [sum7] "+x"(sum[7])
        : [w] "r"(codes), [s] "r"(s), [t] "r"(steps), [mask] "x"(mask),
          "m"(*reinterpret_cast<const uint8_t(*)[96]>(codes)),
          "m"(*reinterpret_cast<const int8_t(*)[128]>(s)), "m"(*reinterpret_cast<const int32_t(*)[8]>(steps))
        : "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14");
#undef NIBBLE_ROW
  }
  // acc + Σ over the two int16 of each lane.
  static I dot16(I acc, I a, I b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }

 private:
  static I first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F widen_bf16(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static __m128i partial16(const uint16_t* p, int64_t n) {
    alignas(16) uint16_t half[8] = {};
    for (int64_t i = 0; i < n; ++i) half[i] = p[i];
    return _mm_load_si128(reinterpret_cast<const __m128i*>(half));
  }
};

}  // namespace
}  // namespace nibble
