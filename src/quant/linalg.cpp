#include "quant/linalg.h"

#include <cblas.h>
#include <lapacke.h>

#include <cmath>

#include "base/error.h"

namespace nibble {
namespace {

int as_int(int64_t value) {
  NIBBLE_CHECK(value >= 0 && value < (int64_t{1} << 31));
  return static_cast<int>(value);
}

}  // namespace

void set_linalg_threads(int threads) { openblas_set_num_threads(threads); }

void add_gram(std::span<const float> x, int64_t rows, int64_t k, std::vector<float>& gram) {
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, as_int(k), as_int(rows), 1.0f, x.data(), as_int(k), 1.0f,
              gram.data(), as_int(k));
}

void mirror_upper(std::vector<float>& matrix, int64_t k) {
  for (int64_t i = 1; i < k; ++i) {
    for (int64_t j = 0; j < i; ++j) matrix[static_cast<size_t>(i * k + j)] = matrix[static_cast<size_t>(j * k + i)];
  }
}

void subtract_product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
                      int64_t n, int64_t k) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(m), as_int(n), as_int(k), -1.0f, a, as_int(lda), b,
              as_int(ldb), 1.0f, c, as_int(ldc));
}

void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, as_int(m), as_int(n), as_int(k), 1.0f, a, as_int(k), b,
              as_int(n), 0.0f, c, as_int(n));
}

bool inverse_cholesky_upper(std::vector<double>& a, int64_t k) {
  // A⁻¹ = Uᵀ·U with U upper is found without forming the inverse: with J the exchange matrix, the
  // lower factor L of J·A·J gives J·L·J upper with A = (J·L·J)·(J·L·J)ᵀ, so U = (J·L·J)⁻¹.
  const int n = as_int(k);
  const size_t size = static_cast<size_t>(k);
  std::vector<double> flipped(size * size);
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) flipped[i * size + j] = a[(size - 1 - i) * size + (size - 1 - j)];
  }
  if (LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', n, flipped.data(), n) != 0) return false;
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) {
      const size_t fi = size - 1 - i, fj = size - 1 - j;
      const double value = j >= i ? flipped[fi * size + fj] : 0.0;
      if (!std::isfinite(value)) return false;
      a[i * size + j] = value;
    }
  }
  return LAPACKE_dtrtri(LAPACK_ROW_MAJOR, 'U', 'N', n, a.data(), n) == 0;
}

}  // namespace nibble
