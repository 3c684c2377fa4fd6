// cuBLASLt, opened when it is first needed: the program starts where it is not installed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/device.h"

namespace nibble::cuda {

class MatrixProducts {
 public:
  MatrixProducts();
  ~MatrixProducts();
  MatrixProducts(const MatrixProducts&) = delete;
  MatrixProducts& operator=(const MatrixProducts&) = delete;

  size_t workspace_bytes() const { return workspace_.bytes(); }
  // y[m, ldy] (+)= x[m, ldx] · w[n, ldw]ᵀ over k inputs: bf16 factors, float32 sums and y.
  void run(Queue& queue, const void* w, int64_t ldw, int n, const void* x, int64_t ldx, int m, int k,
           bool add, float* y, int64_t ldy);

 private:
  struct Library;
  struct Plan;
  using Key = std::tuple<int64_t, int, int64_t, int, int, bool, int64_t>;
  const Plan& plan(const Key& key);

  const Library& library_;
  void* handle_ = nullptr;
  DeviceMemory workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;  // one for each shape seen
};

}  // namespace nibble::cuda
