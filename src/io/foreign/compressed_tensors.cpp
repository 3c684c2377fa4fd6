#include "io/foreign/compressed_tensors.h"

#include <algorithm>
#include <cstring>

#include "io/foreign/bit_stream.h"
#include "io/quote_name.h"

namespace nibble {

ForeignLinear read_compressed_tensors(const TensorMap& tensors, const std::string& name,
                                      const ForeignFormat& format, const std::string& file) {
  const std::string where = fmt::format("{}: {}", file, quote_name(name));
  const int64_t* shape =
      foreign_tensor(tensors, name + ".weight_shape", DType::kI64, {2}, file).as<int64_t>();
  const int64_t n = shape[0], k = shape[1];
  constexpr int64_t kMost = int64_t{1} << 31;
  if (n < 1 || k < 1 || n > kMost || k > kMost)
    fail("{}: weight_shape says [{}, {}], which is no matrix", where, n, k);
  if (!is_packed_bits(format.bits))
    fail("{}: {} bits: only 2, 3, 4, 6 and 8 are supported", where, format.bits);
  // The packed matrix first: only what lies in the file may size the buffers.
  const int64_t words = packed_words(k, format.bits);
  const uint32_t* packed =
      foreign_tensor(tensors, name + ".weight_packed", DType::kI32, {n, words}, file).as<uint32_t>();
  ForeignLinear out{foreign_matrix(format, n, k, where), {}};
  QuantizedMatrix& m = out.matrix;
  const int64_t groups = m.format.groups();
  read_foreign_scales(tensors, name, "weight_scale", false, m, file);
  if (tensors.contains(name + ".weight_zero_point")) {
    const int64_t rows = packed_words(n, format.bits);
    const uint32_t* zeros =
        foreign_tensor(tensors, name + ".weight_zero_point", DType::kI32, {rows, groups}, file)
            .as<uint32_t>();
    std::vector<uint32_t> column(static_cast<size_t>(rows));
    std::vector<uint8_t> values(static_cast<size_t>(n));
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t w = 0; w < rows; ++w) column[static_cast<size_t>(w)] = zeros[w * groups + g];
      unpack_bits(column.data(), format.bits, n, values.data());
      for (int64_t row = 0; row < n; ++row)
        m.zeros[static_cast<size_t>(row * groups + g)] = values[static_cast<size_t>(row)];
    }
  }
  settle_zeros(m);
  if (const auto g_idx = tensors.find(name + ".weight_g_idx"); g_idx != tensors.end())
    out.order = order_from_groups(g_idx->second, m.format, where);
  std::vector<uint8_t> codes(static_cast<size_t>(k));
  for (int64_t row = 0; row < n; ++row) {
    unpack_bits(packed + row * words, format.bits, k, codes.data());
    place_row(out.order, codes.data(), k, m.codes.data() + row * k);
  }
  return out;
}

std::vector<ForeignTensor> compressed_tensors_tensors(const PackedFormat& f, bool ordered) {
  std::vector<ForeignTensor> out;
  out.emplace_back("weight_packed", DType::kI32, std::vector<int64_t>{f.n, packed_words(f.k, f.bits)});
  out.emplace_back("weight_scale", f.scale_type == ScaleType::kF32 ? DType::kF32 : DType::kF16,
                   std::vector<int64_t>{f.n, f.groups()});
  out.emplace_back("weight_shape", DType::kI64, std::vector<int64_t>{2});
  if (!f.symmetric)
    out.emplace_back("weight_zero_point", DType::kI32,
                     std::vector<int64_t>{packed_words(f.n, f.bits), f.groups()});
  if (ordered) out.emplace_back("weight_g_idx", DType::kI32, std::vector<int64_t>{f.k});
  return out;
}

void fill_compressed_tensors(const ForeignLinear& linear, std::vector<ForeignTensor>& out) {
  const QuantizedMatrix& m = linear.matrix;
  const PackedFormat& f = m.format;
  for (ForeignTensor& tensor : out) tensor.allocate();
  const int64_t words = packed_words(f.k, f.bits), groups = f.groups();
  std::vector<uint8_t> codes(static_cast<size_t>(std::max(f.k, f.n)));
  for (int64_t row = 0; row < f.n; ++row) {
    restore_row(linear.order, m.codes.data() + row * f.k, f.k, codes.data());
    pack_bits(codes.data(), f.bits, f.k, out[0].as<uint32_t>() + row * words);
  }
  for (size_t i = 0; i < m.scales.size(); ++i) {
    if (f.scale_type == ScaleType::kF32) {
      out[1].as<float>()[i] = m.scales[i];
    } else {
      out[1].as<uint16_t>()[i] = float_to_fp16(m.scales[i]);
    }
  }
  out[2].as<int64_t>()[0] = f.n;
  out[2].as<int64_t>()[1] = f.k;
  for (size_t t = 3; t < out.size(); ++t) {
    if (out[t].suffix == "weight_g_idx") {
      const std::vector<int32_t> of = groups_from_order(linear.order, f);
      std::memcpy(out[t].data.data(), of.data(), of.size() * sizeof(int32_t));
      continue;
    }
    const int64_t rows = packed_words(f.n, f.bits);
    std::vector<uint32_t> column(static_cast<size_t>(rows));
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t row = 0; row < f.n; ++row)
        codes[static_cast<size_t>(row)] = m.zeros[static_cast<size_t>(row * groups + g)];
      pack_bits(codes.data(), f.bits, f.n, column.data());
      for (int64_t w = 0; w < rows; ++w)
        out[t].as<uint32_t>()[w * groups + g] = column[static_cast<size_t>(w)];
    }
  }
}

}  // namespace nibble
