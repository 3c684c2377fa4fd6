#include "io/foreign/awq.h"

#include "io/quote_name.h"

namespace nibble {
namespace {

constexpr int kOutputs[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // of the nibbles of a word
constexpr int64_t kPerWord = 8;

}  // namespace

ForeignLinear read_awq(const TensorMap& tensors, const std::string& name, const ForeignFormat& format,
                       const std::string& file) {
  const std::string where = fmt::format("{}: {}", file, quote_name(name));
  const TensorView& qweight = matrix_of_words(tensors, name + ".qweight", file);
  if (format.bits != 4) fail("{}: {} bits; AWQ's gemm layout has 4", where, format.bits);
  const int64_t k = qweight.shape[0], words = qweight.shape[1], n = words * kPerWord;
  ForeignLinear out{foreign_matrix(format, n, k, where), {}};
  QuantizedMatrix& m = out.matrix;
  const int64_t groups = m.format.groups();
  read_foreign_scales(tensors, name, "scales", true, m, file);
  const uint32_t* zeros =
      foreign_tensor(tensors, name + ".qzeros", DType::kI32, {groups, words}, file).as<uint32_t>();
  const uint32_t* codes = qweight.as<uint32_t>();
  for (int64_t c = 0; c < words; ++c) {
    for (int i = 0; i < kPerWord; ++i) {
      const int64_t row = c * kPerWord + kOutputs[i];
      uint8_t* to = m.codes.data() + row * k;
      for (int64_t input = 0; input < k; ++input)
        to[input] = static_cast<uint8_t>(codes[input * words + c] >> 4 * i & 15);
      for (int64_t g = 0; g < groups; ++g)
        m.zeros[static_cast<size_t>(row * groups + g)] =
            static_cast<uint8_t>(zeros[g * words + c] >> 4 * i & 15);
    }
  }
  settle_zeros(m);
  return out;
}

std::vector<ForeignTensor> awq_tensors(const PackedFormat& f) {
  std::vector<ForeignTensor> out;
  out.emplace_back("qweight", DType::kI32, std::vector<int64_t>{f.k, f.n / kPerWord});
  out.emplace_back("qzeros", DType::kI32, std::vector<int64_t>{f.groups(), f.n / kPerWord});
  out.emplace_back("scales", DType::kF16, std::vector<int64_t>{f.groups(), f.n});
  return out;
}

void fill_awq(const ForeignLinear& linear, std::vector<ForeignTensor>& out) {
  const QuantizedMatrix& m = linear.matrix;
  const PackedFormat& f = m.format;
  NIBBLE_CHECK(f.n % kPerWord == 0 && linear.order.empty());
  for (ForeignTensor& tensor : out) tensor.allocate();
  uint32_t *codes = out[0].as<uint32_t>(), *zeros = out[1].as<uint32_t>();
  const int64_t words = f.n / kPerWord, groups = f.groups();
  for (int64_t c = 0; c < words; ++c) {
    for (int i = 0; i < kPerWord; ++i) {
      const int64_t row = c * kPerWord + kOutputs[i];
      const uint8_t* from = m.codes.data() + row * f.k;
      for (int64_t input = 0; input < f.k; ++input)
        codes[input * words + c] |= uint32_t{from[input]} << 4 * i;
      for (int64_t g = 0; g < groups; ++g) {
        const size_t at = static_cast<size_t>(row * groups + g);
        zeros[g * words + c] |= uint32_t{m.zeros[at]} << 4 * i;
        out[2].as<uint16_t>()[g * f.n + row] = float_to_fp16(m.scales[at]);
      }
    }
  }
}

}  // namespace nibble
