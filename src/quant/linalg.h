// Dense linear algebra on top of OpenBLAS and LAPACK, with the threads of the pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

// The libraries' own threads; set once at start from --threads.
void set_linalg_threads(int threads);

// gram[k, k] += xᵀ·x for x [rows, k]; only the upper triangle is written.
void add_gram(std::span<const float> x, int64_t rows, int64_t k, std::vector<float>& gram);
void mirror_upper(std::vector<float>& matrix, int64_t k);  // fills the lower triangle

// c[m, n] −= a[m, k] · b[k, n], leading dimensions in elements.
void subtract_product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
                      int64_t n, int64_t k);
// c[m, n] = a[m, k] · b[k, n]
void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k);

// The upper Cholesky factor U of the inverse of a symmetric positive definite matrix:
// A⁻¹ = Uᵀ·U, float64 inside. `matrix` [k, k] is overwritten (both triangles; below the diagonal 0).
// False, matrix undefined, when it is not positive definite or a check of the factor fails.
bool inverse_cholesky_upper(std::vector<double>& matrix, int64_t k);

}  // namespace nibble
