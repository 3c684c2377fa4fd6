// Dense linear algebra on top of OpenBLAS and LAPACK. The library itself runs on one thread: the
// pool cuts the work, so that two sets of spinning threads never share the processors.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"

namespace nibble {

// Whose kernels OpenBLAS computes with, as it names them: "Zen", "SkylakeX".
std::string_view blas_kernels();

// gram[k, k] += xᵀ·x for x [rows, k]; only the upper triangle is right.
void add_gram(const float* x, int64_t rows, int64_t k, std::vector<float>& gram, ThreadPool& pool);
void mirror_upper(std::vector<float>& matrix, int64_t k);  // fills the lower triangle

// A factor of a product: a row-major matrix with its leading dimension in elements, or what its transpose is.
struct Factor {
  const float* data = nullptr;
  int64_t ld = 0;
  bool transposed = false;
};
// c[m, n] = alpha · a[m, k] · b[k, n] + keep · c; what c held is not read with keep 0. On the calling thread,
// which may be one of a pool.
void gemm(float alpha, const Factor& a, const Factor& b, float keep, float* c, int64_t ldc, int64_t m,
          int64_t n, int64_t k);
// The same on all threads.
void gemm(float alpha, const Factor& a, const Factor& b, float keep, float* c, int64_t ldc, int64_t m,
          int64_t n, int64_t k, ThreadPool& pool);

// c[m, n] −= a[m, k] · b[k, n], leading dimensions in elements.
void subtract_product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                      int64_t m, int64_t n, int64_t k, ThreadPool& pool);
// c[m, n] = a[m, k] · b[k, n]
void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k, ThreadPool& pool);
// c[m, n] = a[m, k] · b[n, k]ᵀ
void product_transposed(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k,
                        ThreadPool& pool);
// sum[n, k] += aᵀ·b for a [rows, n] and b [rows, k].
void add_outer(const float* a, int64_t n, const float* b, int64_t k, int64_t rows, std::vector<float>& sum,
               ThreadPool& pool);
// a[m, k] = a · upperᵀ · upper: a times the inverse that inverse_cholesky_upper factored.
void multiply_by_inverse(std::vector<float>& a, int64_t m, const std::vector<float>& upper, int64_t k,
                         ThreadPool& pool);

// The upper Cholesky factor U of the inverse of a symmetric positive definite matrix:
// A⁻¹ = Uᵀ·U. `matrix` [k, k] is overwritten (0 below the diagonal). False, matrix undefined, when
// it is not positive definite.
bool inverse_cholesky_upper(std::vector<double>& matrix, int64_t k, ThreadPool& pool);

}  // namespace nibble
