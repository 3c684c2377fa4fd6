#include "io/foreign/gptq.h"

#include <algorithm>
#include <cstring>

#include "io/foreign/bit_stream.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

constexpr int64_t kTile = 16;  // outputs at a time: a cache line of each row of words

// 1 in every code of a word, for widths that fill words.
uint32_t ones(int bits) {
  uint32_t word = 0;
  for (int at = 0; at < 32; at += bits) word |= 1u << at;
  return word;
}

void read_zeros(const TensorView& qzeros, GptqZeros kind, QuantizedMatrix& m, const std::string& where) {
  const PackedFormat& f = m.format;
  const int64_t row_words = packed_words(f.n, f.bits);
  std::vector<uint32_t> words(static_cast<size_t>(row_words));
  std::vector<uint8_t> zeros(static_cast<size_t>(f.n));
  // Three bits cross words, where a carry means nothing.
  const bool carried = kind == GptqZeros::kMinusOneCarried && 32 % f.bits == 0;
  for (int64_t g = 0; g < f.groups(); ++g) {
    std::memcpy(words.data(), qzeros.as<uint32_t>() + g * row_words, words.size() * sizeof(uint32_t));
    if (carried) {
      for (uint32_t& word : words) word += ones(f.bits);
    }
    unpack_bits(words.data(), f.bits, f.n, zeros.data());
    for (int64_t row = 0; row < f.n; ++row) {
      const int z = zeros[static_cast<size_t>(row)] + (kind != GptqZeros::kPlain && !carried);
      if (z > 255) fail("{}: a zero point of 256, which the packed layout cannot hold", where);
      m.zeros[static_cast<size_t>(row * f.groups() + g)] = static_cast<uint8_t>(z);
    }
  }
}

}  // namespace

ForeignLinear read_gptq(const TensorMap& tensors, const std::string& name, const ForeignFormat& format,
                        GptqZeros zeros, const std::string& file) {
  const std::string where = fmt::format("{}: {}", file, quote_name(name));
  const TensorView& qweight = matrix_of_words(tensors, name + ".qweight", file);
  const int64_t words = qweight.shape[0], n = qweight.shape[1];
  if (format.bits < 1 || words * 32 % format.bits != 0)
    fail("{}: {} words an output do not hold a whole number of {}-bit codes", where, words, format.bits);
  ForeignLinear out{foreign_matrix(format, n, words * 32 / format.bits, where), {}};
  QuantizedMatrix& m = out.matrix;
  const PackedFormat& f = m.format;
  read_foreign_scales(tensors, name, "scales", true, m, file);
  read_zeros(
      foreign_tensor(tensors, name + ".qzeros", DType::kI32, {f.groups(), packed_words(n, f.bits)}, file),
      zeros, m, where);
  settle_zeros(m);
  if (const auto g_idx = tensors.find(name + ".g_idx"); g_idx != tensors.end())
    out.order = order_from_groups(g_idx->second, f, where);

  std::vector<uint32_t> columns(static_cast<size_t>(kTile * words));
  std::vector<uint8_t> codes(static_cast<size_t>(f.k));
  for (int64_t first = 0; first < n; first += kTile) {
    const int64_t count = std::min(kTile, n - first);
    for (int64_t w = 0; w < words; ++w) {
      const uint32_t* from = qweight.as<uint32_t>() + w * n + first;
      for (int64_t c = 0; c < count; ++c) columns[static_cast<size_t>(c * words + w)] = from[c];
    }
    for (int64_t c = 0; c < count; ++c) {
      unpack_bits(columns.data() + c * words, f.bits, f.k, codes.data());
      place_row(out.order, codes.data(), f.k, m.codes.data() + (first + c) * f.k);
    }
  }
  return out;
}

bool gptq_zeros_are(const TensorMap& tensors, const std::string& name, int bits, int value,
                    const std::string& where) {
  const TensorView& qzeros = matrix_of_words(tensors, name + ".qzeros", where);
  if (bits < 1 || 32 % bits != 0) return false;
  const uint32_t word = ones(bits) * static_cast<uint32_t>(value);
  const uint32_t* words = qzeros.as<uint32_t>();
  return std::all_of(words, words + qzeros.elements(), [&](uint32_t w) { return w == word; });
}

std::vector<ForeignTensor> gptq_tensors(const PackedFormat& f) {
  std::vector<ForeignTensor> out;
  out.emplace_back("qweight", DType::kI32, std::vector<int64_t>{packed_words(f.k, f.bits), f.n});
  out.emplace_back("qzeros", DType::kI32, std::vector<int64_t>{f.groups(), packed_words(f.n, f.bits)});
  out.emplace_back("scales", DType::kF16, std::vector<int64_t>{f.groups(), f.n});
  out.emplace_back("g_idx", DType::kI32, std::vector<int64_t>{f.k});
  return out;
}

void fill_gptq(const ForeignLinear& linear, GptqZeros kind, std::vector<ForeignTensor>& out) {
  const QuantizedMatrix& m = linear.matrix;
  const PackedFormat& f = m.format;
  for (ForeignTensor& tensor : out) tensor.allocate();
  const int64_t words = packed_words(f.k, f.bits), row_words = packed_words(f.n, f.bits);
  std::vector<uint32_t> columns(static_cast<size_t>(kTile * words));
  std::vector<uint8_t> codes(static_cast<size_t>(f.k)), zeros(static_cast<size_t>(f.n));
  for (int64_t first = 0; first < f.n; first += kTile) {
    const int64_t count = std::min(kTile, f.n - first);
    for (int64_t c = 0; c < count; ++c) {
      restore_row(linear.order, m.codes.data() + (first + c) * f.k, f.k, codes.data());
      pack_bits(codes.data(), f.bits, f.k, columns.data() + c * words);
    }
    for (int64_t w = 0; w < words; ++w) {
      uint32_t* to = out[0].as<uint32_t>() + w * f.n + first;
      for (int64_t c = 0; c < count; ++c) to[c] = columns[static_cast<size_t>(c * words + w)];
    }
  }
  for (int64_t g = 0; g < f.groups(); ++g) {
    for (int64_t row = 0; row < f.n; ++row) {
      const size_t at = static_cast<size_t>(row * f.groups() + g);
      const int z = m.zeros[at] - (kind == GptqZeros::kMinusOne);
      NIBBLE_CHECK(z >= 0 && z <= f.max_code());
      zeros[static_cast<size_t>(row)] = static_cast<uint8_t>(z);
      out[2].as<uint16_t>()[g * f.n + row] = float_to_fp16(m.scales[at]);
    }
    uint32_t* to = out[1].as<uint32_t>() + g * row_words;
    pack_bits(zeros.data(), f.bits, f.n, to);
    for (int64_t w = 0; kind == GptqZeros::kMinusOneCarried && w < row_words; ++w) to[w] -= ones(f.bits);
  }
  const std::vector<int32_t> groups = groups_from_order(linear.order, f);
  std::memcpy(out[3].data.data(), groups.data(), groups.size() * sizeof(int32_t));
}

}  // namespace nibble
