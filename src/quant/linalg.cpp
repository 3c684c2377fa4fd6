#include "quant/linalg.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "base/error.h"

// Of OpenBLAS; null in builds of it for one processor.
extern "C" {
[[gnu::weak]] void gotoblas_dynamic_init();
[[gnu::weak]] void gotoblas_dynamic_quit();
}

namespace nibble {
namespace {

constexpr int64_t kGramBlock = 256;  // columns of a task: enough to pay for the packing of x
constexpr int64_t kFactorBlock = 128;

int as_int(int64_t value) {
  NIBBLE_CHECK(value >= 0 && value < (int64_t{1} << 31));
  return static_cast<int>(value);
}

// OpenBLAS knows processors by their model numbers, and gives one that is newer than itself the kernels of
// 2004, ten times slower. This lets it choose again by the instruction set.
void choose_kernels_again() {
  const char* name = nullptr;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    name = "SkylakeX";
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    name = "Haswell";
  }
  if (!name || !gotoblas_dynamic_init || std::getenv("OPENBLAS_CORETYPE")) return;
  if (std::string_view(openblas_get_corename()) != "Prescott") return;
  ::setenv("OPENBLAS_CORETYPE", name, 0);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  ::unsetenv("OPENBLAS_CORETYPE");
}

// OpenBLAS as it starts takes every processor; its calls are safe from several threads.
void single_threaded() {
  static const bool once = (choose_kernels_again(), openblas_set_num_threads(1), true);
  (void)once;
}

// c = alpha·a·b + beta·c, rows of a and c shared out.
void multiply(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
              int64_t ldc, int64_t m, int64_t n, int64_t k, ThreadPool& pool) {
  single_threaded();
  pool.parallel_for(static_cast<size_t>(m), 16, [&](size_t begin, size_t end, int) {
    const int64_t row = static_cast<int64_t>(begin);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(static_cast<int64_t>(end) - row), as_int(n),
                as_int(k), alpha, a + row * lda, as_int(lda), b, as_int(ldb), beta, c + row * ldc,
                as_int(ldc));
  });
}

}  // namespace

std::string_view blas_kernels() {
  single_threaded();
  return openblas_get_corename();
}

void gemm(float alpha, const Factor& a, const Factor& b, float keep, float* c, int64_t ldc, int64_t m,
          int64_t n, int64_t k) {
  single_threaded();
  cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, as_int(m), as_int(n), as_int(k), alpha, a.data,
              as_int(a.ld), b.data, as_int(b.ld), keep, c, as_int(ldc));
}

void gemm(float alpha, const Factor& a, const Factor& b, float keep, float* c, int64_t ldc, int64_t m,
          int64_t n, int64_t k, ThreadPool& pool) {
  // The longer side of c is shared out: each thread packs the factor of the shorter one for itself.
  if (n >= m) {
    pool.parallel_for(static_cast<size_t>(n), 16, [&](size_t begin, size_t end, int) {
      const int64_t at = static_cast<int64_t>(begin);
      gemm(alpha, a, {b.data + at * (b.transposed ? b.ld : 1), b.ld, b.transposed}, keep, c + at, ldc, m,
           static_cast<int64_t>(end) - at, k);
    });
  } else {
    pool.parallel_for(static_cast<size_t>(m), 16, [&](size_t begin, size_t end, int) {
      const int64_t at = static_cast<int64_t>(begin);
      gemm(alpha, {a.data + at * (a.transposed ? 1 : a.ld), a.ld, a.transposed}, b, keep, c + at * ldc, ldc,
           static_cast<int64_t>(end) - at, n, k);
    });
  }
}

void add_gram(const float* x, int64_t rows, int64_t k, std::vector<float>& gram, ThreadPool& pool) {
  single_threaded();
  const int64_t blocks = (k + kGramBlock - 1) / kGramBlock;
  pool.parallel_each(static_cast<size_t>(blocks), [&](size_t block, int) {
    const int64_t first = static_cast<int64_t>(block) * kGramBlock;
    const int64_t count = std::min(kGramBlock, k - first);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, as_int(count), as_int(k - first), as_int(rows), 1.0f,
                x + first, as_int(k), x + first, as_int(k), 1.0f, gram.data() + first * k + first, as_int(k));
  });
}

void mirror_upper(std::vector<float>& matrix, int64_t k) {
  constexpr int64_t kSquare = 64;  // by squares, since columns are far apart
  for (int64_t above = 0; above < k; above += kSquare) {
    for (int64_t i = above + 1; i < k; ++i) {
      for (int64_t j = above; j < std::min(i, above + kSquare); ++j)
        matrix[static_cast<size_t>(i * k + j)] = matrix[static_cast<size_t>(j * k + i)];
    }
  }
}

void subtract_product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                      int64_t m, int64_t n, int64_t k, ThreadPool& pool) {
  multiply(-1.0f, a, lda, b, ldb, 1.0f, c, ldc, m, n, k, pool);
}

void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k, ThreadPool& pool) {
  multiply(1.0f, a, k, b, n, 0.0f, c, n, m, n, k, pool);
}

void product_transposed(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k,
                        ThreadPool& pool) {
  single_threaded();
  pool.parallel_for(static_cast<size_t>(m), 16, [&](size_t begin, size_t end, int) {
    const int64_t row = static_cast<int64_t>(begin);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_int(static_cast<int64_t>(end) - row), as_int(n),
                as_int(k), 1.0f, a + row * k, as_int(k), b, as_int(k), 0.0f, c + row * n, as_int(n));
  });
}

void add_outer(const float* a, int64_t n, const float* b, int64_t k, int64_t rows, std::vector<float>& sum,
               ThreadPool& pool) {
  single_threaded();
  const int64_t blocks = (n + kGramBlock - 1) / kGramBlock;
  pool.parallel_each(static_cast<size_t>(blocks), [&](size_t block, int) {
    const int64_t first = static_cast<int64_t>(block) * kGramBlock;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, as_int(std::min(kGramBlock, n - first)), as_int(k),
                as_int(rows), 1.0f, a + first, as_int(n), b, as_int(k), 1.0f, sum.data() + first * k,
                as_int(k));
  });
}

void multiply_by_inverse(std::vector<float>& a, int64_t m, const std::vector<float>& upper, int64_t k,
                         ThreadPool& pool) {
  single_threaded();
  pool.parallel_for(static_cast<size_t>(m), 16, [&](size_t begin, size_t end, int) {
    for (const auto transpose : {CblasTrans, CblasNoTrans})
      cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, transpose, CblasNonUnit,
                  as_int(static_cast<int64_t>(end - begin)), as_int(k), 1.0f, upper.data(), as_int(k),
                  a.data() + static_cast<int64_t>(begin) * k, as_int(k));
  });
}

namespace {

// In place, lower triangle, row-major: A = L·Lᵀ. Blocks and tiles have fixed places, so the result does not
// depend on the number of threads.
bool cholesky_lower(double* a, int64_t k, ThreadPool& pool) {
  for (int64_t j = 0; j < k; j += kFactorBlock) {
    const int64_t width = std::min(kFactorBlock, k - j), below = j + width;
    double* diagonal = a + j * k + j;
    // A row-major lower triangle is a column-major upper one.
    if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', as_int(width), diagonal, as_int(k)) != 0) return false;
    const int64_t tiles = (k - below + kFactorBlock - 1) / kFactorBlock;
    const auto tile_rows = [&](int64_t row) { return std::min(kFactorBlock, k - row); };
    pool.parallel_each(static_cast<size_t>(tiles), [&](size_t tile, int) {
      const int64_t row = below + static_cast<int64_t>(tile) * kFactorBlock;
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, as_int(tile_rows(row)),
                  as_int(width), 1.0, diagonal, as_int(k), a + row * k + j, as_int(k));
    });
    pool.parallel_each(static_cast<size_t>(tiles), [&](size_t index, int) {
      const int64_t row = below + (tiles - 1 - static_cast<int64_t>(index)) * kFactorBlock;  // longest first
      const int64_t rows = tile_rows(row);
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_int(rows), as_int(row + rows - below),
                  as_int(width), -1.0, a + row * k + j, as_int(k), a + below * k + j, as_int(k), 1.0,
                  a + row * k + below, as_int(k));
    });
  }
  return true;
}

// In place: the inverse of a lower triangle with zeros above it.
bool invert_lower(double* a, int64_t k, ThreadPool& pool) {
  std::vector<double> panel;
  for (int64_t j = (k - 1) / kFactorBlock * kFactorBlock; j >= 0; j -= kFactorBlock) {
    const int64_t width = std::min(kFactorBlock, k - j), below = j + width;
    double* diagonal = a + j * k + j;
    panel.resize(static_cast<size_t>((k - below) * width));
    for (int64_t r = below; r < k; ++r)
      std::copy_n(a + r * k + j, width, panel.begin() + (r - below) * width);
    const int64_t tiles = (k - below + kFactorBlock - 1) / kFactorBlock;
    pool.parallel_each(static_cast<size_t>(tiles), [&](size_t index, int) {
      const int64_t row = below + (tiles - 1 - static_cast<int64_t>(index)) * kFactorBlock;
      const int64_t rows = std::min(kFactorBlock, k - row);
      double* out = a + row * k + j;
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(rows), as_int(width),
                  as_int(row + rows - below), -1.0, a + row * k + below, as_int(k), panel.data(),
                  as_int(width), 0.0, out, as_int(k));
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, as_int(rows),
                  as_int(width), 1.0, diagonal, as_int(k), out, as_int(k));
    });
    if (LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', as_int(width), diagonal, as_int(k)) != 0)
      return false;
  }
  return true;
}

}  // namespace

bool inverse_cholesky_upper(std::vector<double>& a, int64_t k, ThreadPool& pool) {
  single_threaded();
  // A⁻¹ = Uᵀ·U with U upper is found without forming the inverse: with J the exchange matrix and
  // J·A·J = L·Lᵀ, U = J·L⁻¹·J. J·A·J is the array read backwards.
  NIBBLE_CHECK(static_cast<int64_t>(a.size()) == k * k);
  std::reverse(a.begin(), a.end());
  if (!cholesky_lower(a.data(), k, pool)) return false;
  for (int64_t i = 0; i < k; ++i) {
    if (!std::isfinite(a[static_cast<size_t>(i * k + i)])) return false;
    std::fill(a.begin() + i * k + i + 1, a.begin() + (i + 1) * k, 0.0);
  }
  if (!invert_lower(a.data(), k, pool)) return false;
  std::reverse(a.begin(), a.end());
  return true;
}

}  // namespace nibble
