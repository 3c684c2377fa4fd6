#include "quant/linalg.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace nibble {
namespace {

constexpr int64_t kGramBlock = 256;  // columns of a task: enough to pay for the packing of x

int as_int(int64_t value) {
  NIBBLE_CHECK(value >= 0 && value < (int64_t{1} << 31));
  return static_cast<int>(value);
}

// OpenBLAS as it starts takes every processor; its calls are safe from several threads.
void single_threaded() {
  static const bool once = (openblas_set_num_threads(1), true);
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
  for (int64_t i = 1; i < k; ++i) {
    for (int64_t j = 0; j < i; ++j)
      matrix[static_cast<size_t>(i * k + j)] = matrix[static_cast<size_t>(j * k + i)];
  }
}

void subtract_product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                      int64_t m, int64_t n, int64_t k, ThreadPool& pool) {
  multiply(-1.0f, a, lda, b, ldb, 1.0f, c, ldc, m, n, k, pool);
}

void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k, ThreadPool& pool) {
  multiply(1.0f, a, k, b, n, 0.0f, c, n, m, n, k, pool);
}

bool inverse_cholesky_upper(std::vector<double>& a, int64_t k) {
  single_threaded();
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
