// cuBLASLt, opened when it is first needed: the program starts where it is not installed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/device.h"

namespace nibble::cuda {

enum class Number { kF16, kF32, kF64 };  // sums: float32, float32, float64

// A row-major matrix on the card; transposed: the factor is its transpose.
struct Factor {
  const void* data = nullptr;
  int64_t ld = 0;  // elements from row to row
  bool transposed = false;
};

class MatrixProducts {
 public:
  MatrixProducts();
  ~MatrixProducts();
  MatrixProducts(const MatrixProducts&) = delete;
  MatrixProducts& operator=(const MatrixProducts&) = delete;

  size_t workspace_bytes() const { return workspace_.bytes(); }
  // y[m, n] = alpha · a[m, k] · b[k, n] + beta · y, row-major with rows ldy elements apart. The factors are
  // of the kind named, y float32 or, for float64 factors, float64.
  void run(Queue& queue, Number number, const Factor& a, const Factor& b, int64_t m, int64_t n, int64_t k,
           double alpha, double beta, void* y, int64_t ldy);

 private:
  struct Library;
  struct Plans;
  const Library& library_;
  void* handle_ = nullptr;
  DeviceMemory workspace_;
  std::unique_ptr<Plans> plans_;  // one for each shape seen
};

}  // namespace nibble::cuda
