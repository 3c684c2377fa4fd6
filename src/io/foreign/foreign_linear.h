// A quantized linear as other tools store it, in one form: what the readers make and the writers take.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "tensor/packed.h"
#include "tensor/tensor.h"

namespace nibble {

using TensorMap = std::map<std::string, TensorView>;

struct ForeignLinear {
  QuantizedMatrix matrix;
  // Of act-order: column j of the matrix is input order[j], so that groups are contiguous. Empty: as they
  // come.
  std::vector<int32_t> order;
};

// What a configuration says of one linear.
struct ForeignFormat {
  int bits = 4;
  int group_size = 128;  // 0: the whole row
  bool operator==(const ForeignFormat&) const = default;
};

// A tensor of a linear to be written: "qweight" of "model.layers.0.mlp.down_proj".
struct ForeignTensor {
  std::string suffix;
  DType dtype;
  std::vector<int64_t> shape;
  AlignedBuffer<std::byte> data;  // empty until filled

  ForeignTensor(std::string suffix_, DType dtype_, std::vector<int64_t> shape_)
      : suffix(std::move(suffix_)), dtype(dtype_), shape(std::move(shape_)) {}
  void allocate() { data = AlignedBuffer<std::byte>(TensorView{dtype, shape, nullptr}.bytes()); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data.data());
  }
};

// The tensor of `name`, which must have this type and shape. Throws Error naming `where` and the tensor.
const TensorView& foreign_tensor(const TensorMap& tensors, const std::string& name, DType dtype,
                                 const std::vector<int64_t>& shape, const std::string& where);

// The matrix of a linear of n outputs and k inputs; throws Error for what the packed layout cannot say.
QuantizedMatrix foreign_matrix(const ForeignFormat& format, int64_t n, int64_t k, const std::string& where);

// The tensor of `name`, which must be a matrix of I32. Throws Error likewise.
const TensorView& matrix_of_words(const TensorMap& tensors, const std::string& name,
                                  const std::string& where);

// Scales of any float type, tensor "LINEAR.SUFFIX" of shape [n, groups] or, transposed, [groups, n]: fp16 in
// the matrix when every one is exactly that, float32 otherwise. Throws Error naming `file` and the linear.
void read_foreign_scales(const TensorMap& tensors, const std::string& linear, const char* suffix,
                         bool transposed, QuantizedMatrix& matrix, const std::string& file);

// Sets `symmetric` when every zero point is the middle, `wide_zeros` when one does not fit the code's width.
void settle_zeros(QuantizedMatrix& matrix);

// From the group of every input, [k] (-1 everywhere: none is stored): the order that makes groups contiguous.
// Throws Error when a group has not as many inputs as the group size says.
std::vector<int32_t> order_from_groups(const TensorView& groups, const PackedFormat& format,
                                       const std::string& where);
// The group of every input, the inverse of the above; without order i / group.
std::vector<int32_t> groups_from_order(const std::vector<int32_t>& order, const PackedFormat& format);

// Codes of one row between the order of the checkpoint and that of the matrix.
void place_row(const std::vector<int32_t>& order, const uint8_t* inputs, int64_t k, uint8_t* columns);
void restore_row(const std::vector<int32_t>& order, const uint8_t* columns, int64_t k, uint8_t* inputs);

}  // namespace nibble
