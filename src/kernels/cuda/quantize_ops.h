// What quantization computes on the card, beside the products of kernels/cuda/blas.h. Every pointer is to the
// card's memory; matrices are row-major. The processor's versions in quant/ are the reference.
#pragma once

#include <cstdint>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"

namespace nibble::cuda {

// out[rows, n] = the sum of the parts [rows, parts, ld] (kernels/cuda/ops.h).
void join_parts(Queue& queue, const void* parts_of, int64_t ld, int parts, int rows, int n, float* out);
// to[i] = a[i] − b[i] − bias[i mod width]; bias may be null.
void subtract(Queue& queue, const float* a, const float* b, const float* bias, int64_t count, int width,
              float* to);
void accumulate(Queue& queue, const float* x, int64_t count, float* to);  // to += x
// sum[i] += Σ |x[r, i]| over the rows.
void add_magnitudes(Queue& queue, const float* x, int rows, int k, double* sum);
// The upper triangle's mirror image into the lower one.
void mirror_upper(Queue& queue, float* matrix, int k);

// The factor of quant/inverse_hessian.h: U upper with H⁻¹ = Uᵀ·U for H = gram · scale with inputs in the
// order given (input order[i] at position i), a diagonal of 0 set to 1, and `added` on the diagonal. By
// blocks of columns in float64, as LAPACK's dpotrf and dtrtri.
class InverseFactor {
 public:
  explicit InverseFactor(int64_t k);
  // Writes u[k, k] float32, zeros below the diagonal. False, u undefined, when H is not positive definite or
  // U does not invert it.
  bool run(Queue& queue, MatrixProducts& products, const float* gram, const int32_t* order, double scale,
           double added, float* u);

 private:
  int64_t k_;
  DeviceMemory h_, l_, panel_, vectors_, state_;
};

// GPTQ's inner loop (quant/gptq.h), lazily in blocks of columns.
struct GptqCall {
  int n = 0, k = 0;
  int group = 0, bits = 0;
  bool symmetric = false;
  bool natural = true;             // the order is that of the inputs
  const float* units = nullptr;    // [n], of what scales are multiples; null: scales are fp16
  const int32_t* order = nullptr;  // [k]
  const float* factor = nullptr;   // [k, k] upper
  float* weight = nullptr;         // [n, k] in the order of the inputs; overwritten
  float* sorted = nullptr;         // [n, k], scratch where the order is another
  float* cost = nullptr;           // [k], scratch
  float* errors = nullptr;         // [n, block columns], scratch
  uint8_t* codes = nullptr;        // [n, k], by input
  float* scales = nullptr;         // [n, groups]
  uint8_t* zeros = nullptr;        // [n, groups]
};
int64_t gptq_block_columns(int64_t k, int64_t group);
void gptq(Queue& queue, MatrixProducts& products, const GptqCall& call);

// Coordinate descent on the codes (quant/refine.h).
struct RefineCall {
  int n = 0, k = 0;
  int group = 0, top = 0;  // top: the largest code
  int sweeps = 0;
  const float* gram = nullptr;    // [k, k]
  float added = 0;                // to its diagonal
  float* weight = nullptr;        // [n, k]; overwritten
  float* gradient = nullptr;      // [n, k], scratch
  float* diagonal = nullptr;      // [k], scratch
  uint8_t* codes = nullptr;       // [n, k]
  const float* scales = nullptr;  // [n, groups]
  const uint8_t* zeros = nullptr;
};
void refine(Queue& queue, MatrixProducts& products, const RefineCall& call);

}  // namespace nibble::cuda
