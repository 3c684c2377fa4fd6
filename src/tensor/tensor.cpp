#include "tensor/tensor.h"

#include <cstring>

namespace nibble {

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

std::vector<float> to_float(const TensorView& view) {
  const size_t n = static_cast<size_t>(view.elements());
  std::vector<float> values(n);
  switch (view.dtype) {
    case DType::kF32:
      if (n) std::memcpy(values.data(), view.data, n * sizeof(float));
      break;
    case DType::kF64:
      for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(view.as<double>()[i]);
      break;
    case DType::kF16:
      for (size_t i = 0; i < n; ++i) values[i] = fp16_to_float(view.as<uint16_t>()[i]);
      break;
    case DType::kBF16:
      for (size_t i = 0; i < n; ++i) values[i] = bf16_to_float(view.as<uint16_t>()[i]);
      break;
    default:
      fail("a tensor of type {} holds no real numbers", dtype_name(view.dtype));
  }
  return values;
}

}  // namespace nibble
