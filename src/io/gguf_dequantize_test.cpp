#include "io/gguf_dequantize.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/gguf_file.h"
#include "io/safetensors.h"
#include "test_data.h"

namespace nibble {
namespace {

const std::filesystem::path kGolden = testing::source_dir() / "tests" / "golden" / "gguf";

// Random blocks of each type against the values of the Python package `gguf`, bit for bit.
TEST(GgufDequantize, EveryTypeAsTheReferenceDoes) {
  const GgufFile gguf = GgufFile::open(kGolden / "types.gguf");
  const SafetensorsFile expected = open_safetensors(kGolden / "types.safetensors");
  const std::vector<GgufTensor> tensors = gguf.read_tensors();
  EXPECT_EQ(tensors.size(), 8u);
  for (const GgufTensor& t : tensors) {
    EXPECT_EQ(ggml_type_info(t.type).name, t.name);
    EXPECT_TRUE(is_quantized(t.type));
    for (const GgufDType dtype : {GgufDType::kF32, GgufDType::kBF16}) {
      const bool wide = dtype == GgufDType::kF32;
      const TensorView& want = expected.tensors.at(t.name + (wide ? ".f32" : ".bf16"));
      ASSERT_EQ(want.shape, t.shape);
      AlignedBuffer<std::byte> got(want.bytes());
      dequantize(t.type, t.data.data(), static_cast<size_t>(want.elements()), dtype, got.data());
      for (size_t i = 0; i < static_cast<size_t>(want.elements()); ++i) {
        const size_t width = wide ? 4 : 2;
        ASSERT_EQ(std::memcmp(got.data() + i * width, want.data + i * width, width), 0)
            << t.name << (wide ? " as float32" : " as bf16") << ", element " << i;
      }
    }
  }
}

TEST(GgufDequantize, KnowsTypesByNumber) {
  EXPECT_EQ(find_ggml_type(14)->name, "Q6_K");
  EXPECT_EQ(find_ggml_type(30)->name, "BF16");
  EXPECT_EQ(find_ggml_type(10), nullptr) << "Q2_K is not supported";
  EXPECT_EQ(find_ggml_type(0xffffffff), nullptr);
  EXPECT_FALSE(is_quantized(GgmlType::kF16));
}

}  // namespace
}  // namespace nibble
