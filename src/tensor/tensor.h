// A view of a dense row-major tensor. Never owns its data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"

namespace nibble {

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major; empty for a scalar
  const std::byte* data = nullptr;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_size(dtype); }
  template <typename T>
  const T* as() const {
    NIBBLE_CHECK(sizeof(T) == dtype_size(dtype));
    return reinterpret_cast<const T*>(data);
  }
};

std::string shape_string(const std::vector<int64_t>& shape);  // "[2048, 256]"

// Elements of an F32, F16, BF16 or F64 view as float32. Throws Error for other types.
std::vector<float> to_float(const TensorView& view);

}  // namespace nibble
