// AVX-512 with Intel's matrix tiles (AMX): Xeon processors since Sapphire Rapids.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table_impl.h"
#include "kernels/cpu/table_tiles.h"

namespace nibble {
namespace {

// Behind every instruction on tiles eight that do nothing: where another processor shares the core, tile
// instructions that follow each other closely take up to 1.6 times as long, elsewhere these cost nothing.
#define NIBBLE_TILE_GAP "\n.rept 8\nnop\n.endr"

// Instructions in assembly, since GCC's names for them want literal numbers of tiles. Tiles 0–3: sums of two
// times 16 rows of x and two panels of w; 4, 5: rows of x; 6, 7: steps of w.
struct AmxTiles {
  static void configure(int64_t rows, int64_t more_rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_of_a_row[16] = {};
      uint8_t rows[16] = {};
    } config;
    const auto few = static_cast<uint8_t>(rows), more = static_cast<uint8_t>(more_rows);
    const uint8_t all[8] = {few, few, more, more, few, more, kTileRows, kTileRows};
    for (int t = 0; t < 8; ++t) config.rows[t] = all[t], config.bytes_of_a_row[t] = 64;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  static void release() { asm volatile("tilerelease" ::); }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" NIBBLE_TILE_GAP ::"i"(kTile));
  }
  template <int kTile>
  static void load(const void* from, int64_t bytes_apart) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" NIBBLE_TILE_GAP ::"r"(from), "r"(bytes_apart), "i"(kTile)
                 : "memory");
  }
  // Past the first-level cache, where the steps of w stay.
  template <int kTile>
  static void load_once(const void* from, int64_t bytes_apart) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" NIBBLE_TILE_GAP ::"r"(from), "r"(bytes_apart), "i"(kTile)
                 : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t bytes_apart) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" NIBBLE_TILE_GAP ::"r"(to), "r"(bytes_apart), "i"(kTile)
                 : "memory");
  }
  template <int kSums, int kX, int kW>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" NIBBLE_TILE_GAP ::"i"(kSums), "i"(kX), "i"(kW));
  }
  // The pairs of inputs of `rows` rows, `apart` values from each other, as a step: out[pair][row]; zeros
  // behind.
  static void pairs_of_rows(const uint16_t* from, int64_t apart, int64_t rows, int64_t inputs,
                            uint32_t* out) {
    const __mmask32 mask = inputs == kStepInputs ? ~0u : (1u << inputs) - 1u;
    __m512i a[16], b[16];
    NIBBLE_UNROLL for (int r = 0; r < 16; ++r) a[r] =
        _mm512_maskz_loadu_epi16(r < rows ? mask : 0u, from + (r < rows ? r : 0) * apart);
    NIBBLE_UNROLL for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    // a[4i + j]: of rows 4i … 4i + 3, in lane L of 128 bits, pair 4L + j.
    NIBBLE_UNROLL for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    NIBBLE_UNROLL for (int j = 0; j < 4; ++j) {
      const __m512i even0 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
      const __m512i odd0 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
      const __m512i even1 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
      const __m512i odd1 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
      _mm512_storeu_si512(out + j * 16, _mm512_shuffle_i32x4(even0, even1, 0x88));
      _mm512_storeu_si512(out + (4 + j) * 16, _mm512_shuffle_i32x4(odd0, odd1, 0x88));
      _mm512_storeu_si512(out + (8 + j) * 16, _mm512_shuffle_i32x4(even0, even1, 0xdd));
      _mm512_storeu_si512(out + (12 + j) * 16, _mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
  }

  // Rounded to bf16: `low` in the lower half of each lane, `high` in the upper one.
  static __m512i pair(__m512 low, __m512 high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
};

double peak_of_tiles(int64_t rounds) {
  AmxTiles::configure(kTileRows, kTileRows);
  for (int64_t r = 0; r < rounds; ++r) {
    AmxTiles::dot<0, 4, 6>();
    AmxTiles::dot<1, 4, 7>();
    AmxTiles::dot<2, 5, 6>();
    AmxTiles::dot<3, 5, 7>();
  }
  AmxTiles::release();
  return 2.0 * 4 * kTileRows * kTileRows * kStepInputs * static_cast<double>(rounds);
}

KernelTable make() {
  KernelTable t = *isa::avx512();
  t.name = "amx";
  put_tiles_into<AmxTiles, Avx512>(t);
  t.peak_dense = peak_of_tiles;
  return t;
}

// What CPUID says of the tiles and of their products of bf16 (leaf 7: EDX bits 24 and 22), and whether Linux
// lends this process the registers (Documentation/arch/x86/xstate.rst).
bool there_and_lent() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool here = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1);
  return here && __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

const KernelTable* isa::amx() {
  static const bool here = isa::avx512() && there_and_lent();
  if (!here) return nullptr;
  static const KernelTable table = make();
  return &table;
}

}  // namespace nibble
