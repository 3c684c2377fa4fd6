#include "io/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "base/json.h"
#include "io/hostile_files.h"
#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string with_header(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  return file + header + data;
}

template <typename T>
TensorView view_of(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return {dtype, std::move(shape), reinterpret_cast<const std::byte*>(values.data())};
}

class Safetensors : public ::testing::Test {
 protected:
  std::string error_of_file(const std::string& bytes) {
    write_text(dir_ / "x.safetensors", bytes);
    return error_of([&] { open_safetensors(dir_ / "x.safetensors"); });
  }
  std::string error_of_header(const std::string& header, size_t data = 0) {
    return error_of_file(with_header(header, std::string(data, '\1')));
  }
  TemporaryDirectory dir_;
};

// Logits that PyTorch computed; the two numbers were read with numpy.
TEST_F(Safetensors, ReadsAFileOfTheReferenceImplementation) {
  const SafetensorsFile f =
      open_safetensors(testing::mini_dir() / "golden" / "llama-mini.logits.safetensors");
  const TensorView& ids = f.tensors.at("ids");
  const TensorView& logits = f.tensors.at("logits");
  EXPECT_EQ(logits.dtype, DType::kF32);
  ASSERT_EQ(logits.shape.size(), 2u);
  EXPECT_EQ(logits.shape[1], 2048);
  EXPECT_EQ(ids.elements(), logits.shape[0]);
  EXPECT_EQ(to_float(logits).front(), -0x1.4e58dp+3f);
  EXPECT_EQ(to_float(logits).back(), -0x1.643724p+4f);
}

TEST_F(Safetensors, ReadsEveryField) {
  write_text(dir_ / "x.safetensors",
             with_header(R"({"__metadata__":{"format":"pt"},)"
                         R"("w":{"dtype":"I16","shape":[2,1],"data_offsets":[0,4]},)"
                         R"("none":{"dtype":"F32","shape":[3,0],"data_offsets":[4,4]},)"
                         R"("one":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})",
                         std::string("\x01\x02\xff\xff\x07", 5)));
  const SafetensorsFile f = open_safetensors(dir_ / "x.safetensors");
  EXPECT_EQ(f.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(f.tensors.size(), 3u);
  EXPECT_EQ(f.tensors.at("w").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(f.tensors.at("w").as<int16_t>()[0], 0x0201);
  EXPECT_EQ(f.tensors.at("w").as<int16_t>()[1], -1);
  EXPECT_EQ(f.tensors.at("none").elements(), 0);
  EXPECT_EQ(f.tensors.at("none").shape, (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(f.tensors.at("one").shape, (std::vector<int64_t>{}));
  EXPECT_EQ(f.tensors.at("one").as<uint8_t>()[0], 7);
}

TEST_F(Safetensors, CopiesWhatIsNotAligned) {
  float value = 1.5f;
  std::string data("\x09", 1);
  data.append(reinterpret_cast<const char*>(&value), sizeof value);
  write_text(dir_ / "x.safetensors", with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                                 R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                                                 data));
  const SafetensorsFile f = open_safetensors(dir_ / "x.safetensors");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(f.tensors.at("b").data) % 4, 0u);
  EXPECT_EQ(f.tensors.at("b").as<float>()[0], 1.5f);
  EXPECT_EQ(f.tensors.at("a").as<uint8_t>()[0], 9);
}

TEST_F(Safetensors, WriterMakesTheseBytes) {
  const std::vector<float> a = {1, 2};
  const std::vector<uint8_t> b = {7};
  write_safetensors(dir_ / "y.safetensors",
                    {{"b", view_of(DType::kU8, {1}, b)}, {"a", view_of(DType::kF32, {2, 1}, a)}},
                    {{"k", "v"}});
  const std::string header =
      R"({"__metadata__":{"k":"v"},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
      R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[1,9]}})";
  const std::string bytes = read_file(dir_ / "y.safetensors");
  const size_t data = (8 + header.size() + 63) / 64 * 64;
  const std::string padded = header + std::string(data - 8 - header.size(), ' ');
  EXPECT_EQ(bytes, with_header(padded, std::string("\x07\0\0\x80\x3f\0\0\0\x40", 9)));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1) << "no temporary file is left";
}

TEST_F(Safetensors, WrittenFilesReadBack) {
  const std::vector<double> values = {1, -2, 3, 4, 5, 6};
  const TensorView full = view_of(DType::kF64, {2, 3}, values), empty = view_of(DType::kBF16, {0, 4}, values);
  write_safetensors(dir_ / "y.safetensors",
                    {{"é \"x\"", full}, {"empty", empty}, {"scalar", view_of(DType::kF64, {}, values)}});
  const SafetensorsFile f = open_safetensors(dir_ / "y.safetensors");
  EXPECT_TRUE(f.buffers.empty());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(f.tensors.at("é \"x\"").data) % 64, 0u);
  EXPECT_EQ(std::memcmp(f.tensors.at("é \"x\"").data, values.data(), full.bytes()), 0);
  EXPECT_EQ(f.tensors.at("empty").shape, empty.shape);
  EXPECT_EQ(f.tensors.at("empty").dtype, DType::kBF16);
  EXPECT_EQ(f.tensors.at("scalar").as<double>()[0], 1);
  EXPECT_TRUE(f.metadata.empty());
  write_safetensors(dir_ / "none.safetensors", {});
  EXPECT_TRUE(open_safetensors(dir_ / "none.safetensors").tensors.empty());
}

TEST_F(Safetensors, WriterRefusesBadNames) {
  const std::vector<uint8_t> b = {7};
  const TensorView v = view_of(DType::kU8, {1}, b);
  const auto write = [&](const std::string& first, const std::string& second) {
    return error_of([&] { write_safetensors(dir_ / "z.safetensors", {{first, v}, {second, v}}); });
  };
  EXPECT_THAT(write("a", "a"), HasSubstr("name is taken"));
  EXPECT_THAT(write("a", "__metadata__"), HasSubstr("name is taken"));
  EXPECT_THAT(write("a", "\xff"), HasSubstr("not UTF-8"));
  EXPECT_FALSE(fs::exists(dir_ / "z.safetensors"));
}

TEST_F(Safetensors, RefusesABadFrame) {
  EXPECT_THAT(error_of_file(""), HasSubstr("empty"));
  EXPECT_THAT(error_of_file("1234567"), HasSubstr("too few"));
  EXPECT_THAT(error_of_file(std::string(8, '\xff')), HasSubstr("18446744073709551615"));
  EXPECT_THAT(error_of_file(with_header("{}").substr(0, 9)), HasSubstr("announce a header of 2 bytes"));
  EXPECT_THAT(error_of_header("{}", 1), HasSubstr("file holds 1"));
  EXPECT_EQ(error_of_header("{}  "), "");
  EXPECT_THAT(error_of([&] { open_safetensors(dir_ / "nowhere"); }), HasSubstr("cannot open"));
  EXPECT_THAT(error_of([&] { open_safetensors(dir_.path()); }), HasSubstr("not a regular file"));
}

TEST_F(Safetensors, RefusesABadHeader) {
  EXPECT_THAT(error_of_header(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of_header("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(error_of_header("{\"a\": \xff}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of_header(R"({"a": 1})"), HasSubstr("expected an object"));
  EXPECT_THAT(error_of_header(R"({"__metadata__": {"a": 1}})"), HasSubstr("not a string"));
  EXPECT_THAT(error_of_header(R"({"__metadata__": "a"})"), HasSubstr("expected an object"));
  EXPECT_THAT(error_of_header(std::string(100'000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of_header(R"({"a":{"x":{"y":{}}}})"), HasSubstr("nested deeper"));
}

TEST_F(Safetensors, RefusesABadTensor) {
  const auto error = [&](const std::string& fields, size_t data) {
    return error_of_header("{\"a\\n\":{" + fields + "}}", data);
  };
  EXPECT_EQ(error(R"("dtype":"F16","shape":[2],"data_offsets":[0,4])", 4), "");
  EXPECT_THAT(error(R"("dtype":"F16","shape":[2],"data_offsets":[0,4])", 3),
              AllOf(HasSubstr("truncated"), HasSubstr("'a?'")));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[2],"data_offsets":[0,2])", 2), HasSubstr("takes 4 bytes"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[2],"data_offsets":[4,0])", 4), HasSubstr("outside"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1],"data_offsets":[0])", 2), HasSubstr("not a pair"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1],"data_offsets":[0,2,4])", 2), HasSubstr("not a pair"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1],"data_offsets":[-2,0])", 2), HasSubstr("whole number"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1],"data_offsets":[0,2.0])", 2), HasSubstr("whole number"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1],"data_offsets":[0,99999999999999999999])", 2),
              HasSubstr("whole number"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[-1,-1],"data_offsets":[0,2])", 2), HasSubstr("whole number"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":["1"],"data_offsets":[0,2])", 2), HasSubstr("whole number"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":1,"data_offsets":[0,2])", 2), HasSubstr("expected an array"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[[1]],"data_offsets":[0,2])", 2), HasSubstr("nested deeper"));
  EXPECT_THAT(error(R"("dtype":"F16","data_offsets":[0,2])", 2), HasSubstr("'shape' is missing"));
  EXPECT_THAT(error(R"("shape":[1],"data_offsets":[0,2])", 2), HasSubstr("'dtype' is missing"));
  EXPECT_THAT(error(R"("dtype":"F16","shape":[1])", 2), HasSubstr("'data_offsets' is missing"));
  EXPECT_THAT(error(R"("dtype":"Q4","shape":[1],"data_offsets":[0,2])", 2),
              HasSubstr("'Q4' is not supported"));
  EXPECT_THAT(error(R"("dtype":3,"shape":[1],"data_offsets":[0,2])", 2), HasSubstr("wrong type"));
  EXPECT_THAT(error(R"("dtype":"U8","dtype":"I8","shape":[2],"data_offsets":[0,2])", 2),
              HasSubstr("stands twice"));
  // 2^32 · 2^32 · 4 bytes is 0 modulo 2^64; with a zero the bytes are 0, but strides would overflow.
  EXPECT_THAT(error(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
              HasSubstr("2^63"));
  EXPECT_THAT(error(R"("dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0])", 0),
              HasSubstr("2^63"));
}

TEST_F(Safetensors, RefusesHolesOverlapsAndDuplicates) {
  const auto tensor = [](const char* name, int begin, int end) {
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, end - begin,
                       begin, end);
  };
  const auto error = [&](const std::string& a, const std::string& b, size_t data) {
    return error_of_header("{" + a + "," + b + "}", data);
  };
  EXPECT_EQ(error(tensor("a", 2, 4), tensor("b", 0, 2), 4), "") << "any order of names";
  EXPECT_THAT(error(tensor("a", 0, 3), tensor("b", 2, 4), 4), HasSubstr("overlap"));
  EXPECT_THAT(error(tensor("a", 0, 2), tensor("b", 0, 2), 2), HasSubstr("overlap"));
  EXPECT_THAT(error(tensor("a", 0, 4), tensor("b", 2, 2), 4), HasSubstr("overlap"));
  EXPECT_THAT(error(tensor("a", 0, 1), tensor("b", 2, 4), 4), HasSubstr("hole"));
  EXPECT_THAT(error(tensor("a", 1, 2), tensor("b", 2, 4), 4), HasSubstr("hole"));
  EXPECT_THAT(error(tensor("a", 0, 1), tensor("b", 1, 2), 4), HasSubstr("file holds 4"));
  EXPECT_THAT(error(tensor("a", 0, 2), tensor("a", 2, 4), 4), HasSubstr("stands twice"));
  EXPECT_THAT(error(tensor("a", 0, 2), tensor("\\u0061", 2, 4), 4), HasSubstr("stands twice"));
}

TEST_F(Safetensors, SurvivesTruncationAndRandomBytes) {
  const std::vector<float> a = {1, 2, 3, 4};
  write_safetensors(dir_ / "x.safetensors",
                    {{"a", view_of(DType::kF32, {2, 2}, a)},
                     {"b", view_of(DType::kBF16, {8}, a)},
                     {"c", view_of(DType::kI8, {0}, a)}},
                    {{"format", "pt"}});
  const std::string whole = read_file(dir_ / "x.safetensors");
  const auto open = [](const fs::path& path) { open_safetensors(path); };
  expect_truncations_refused(whole, whole.size(), 1, open);
  EXPECT_GT(open_with_random_bytes(whole, whole.size() - 32, 2000, 1, open), 500);
}

}  // namespace
}  // namespace nibble
