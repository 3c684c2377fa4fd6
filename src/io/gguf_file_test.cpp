#include "io/gguf_file.h"

#include <gmock/gmock.h>

#include <limits>

#include "io/hostile_files.h"
#include "io/test_files.h"
#include "io/utf8.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
enum : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// A GGUF file written field by field, right or wrong.
class Bytes {
 public:
  template <typename T>
  Bytes& put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& string(std::string_view s) {
    put<uint64_t>(s.size());
    text_ += s;
    return *this;
  }
  Bytes& header(uint64_t tensors, uint64_t values, uint32_t version = 3) {
    text_ += "GGUF";
    return put(version).put(tensors).put(values);
  }
  Bytes& key(std::string_view name, uint32_t type) { return string(name).put(type); }
  Bytes& tensor(std::string_view name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    string(name).put(static_cast<uint32_t>(dims.size()));
    for (uint64_t d : dims) put(d);
    return put(type).put(offset);
  }
  Bytes& data(size_t n) {
    text_.resize((text_.size() + 31) / 32 * 32 + n, '\1');
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

class GgufContainer : public ::testing::Test {
 protected:
  GgufFile open(const Bytes& bytes) {
    write_text(dir_ / "x.gguf", bytes.text());
    return GgufFile::open(dir_ / "x.gguf");
  }
  std::string error(const Bytes& bytes) {
    return error_of([&] { open(bytes).read_tensors(); });
  }
  TemporaryDirectory dir_;
};

TEST_F(GgufContainer, MetadataOfEveryType) {
  Bytes b;
  b.header(0, 14);
  b.key("u8", kU8).put<uint8_t>(200).key("i8", kI8).put<int8_t>(-3).key("u16", kU16).put<uint16_t>(60000);
  b.key("i16", kI16)
      .put<int16_t>(-300)
      .key("u32", kU32)
      .put<uint32_t>(4000000000u)
      .key("i32", kI32)
      .put<int32_t>(-5);
  b.key("u64", kU64).put(kHuge).key("i64", kI64).put<int64_t>(-(int64_t{1} << 40)).key("f32", kF32).put(0.5f);
  b.key("f64", kF64).put(0.1).key("bool", kBool).put<uint8_t>(1).key("text", kString).string("é");
  b.key("texts", kArray).put<uint32_t>(kString).put<uint64_t>(2).string("a").string("");
  b.key("numbers", kArray)
      .put<uint32_t>(kI16)
      .put<uint64_t>(3)
      .put<int16_t>(1)
      .put<int16_t>(-2)
      .put<int16_t>(3);
  const GgufFile f = open(b);
  EXPECT_EQ(f.integer("u8"), 200);
  EXPECT_EQ(f.integer("i8"), -3);
  EXPECT_EQ(f.integer("u16"), 60000);
  EXPECT_EQ(f.integer("i16"), -300);
  EXPECT_EQ(f.integer("u32"), 4000000000);
  EXPECT_EQ(f.integer("i32"), -5);
  EXPECT_EQ(f.integer("i64"), -(int64_t{1} << 40));
  EXPECT_EQ(f.number("f32"), 0.5);
  EXPECT_EQ(f.number("f64"), 0.1);
  EXPECT_TRUE(f.flag_or("bool", false));
  EXPECT_EQ(f.text("text"), "é");
  EXPECT_THAT(f.texts("texts"), ElementsAre("a", ""));
  EXPECT_THAT(f.integers("numbers"), ElementsAre(1, -2, 3));
  EXPECT_EQ(f.integer_or("none", 7), 7);
  EXPECT_EQ(f.number_or("none", 7.5), 7.5);
  EXPECT_EQ(f.text_or("none", "x"), "x");
  EXPECT_TRUE(f.flag_or("none", true));
  EXPECT_FALSE(f.has("none"));

  EXPECT_THAT(error_of([&] { f.integer("none"); }), HasSubstr("'none' is missing"));
  EXPECT_THAT(error_of([&] { f.integer("u64"); }), HasSubstr("below 2^63"));
  EXPECT_THAT(error_of([&] { f.integer("text"); }), HasSubstr("not an integer"));
  EXPECT_THAT(error_of([&] { f.integer("numbers"); }), HasSubstr("not an integer"));
  EXPECT_THAT(error_of([&] { f.integer("f32"); }), HasSubstr("not an integer"));
  EXPECT_THAT(error_of([&] { f.number("u8"); }), HasSubstr("not a floating-point number"));
  EXPECT_THAT(error_of([&] { f.text("u64"); }), HasSubstr("not a string"));
  EXPECT_THAT(error_of([&] { f.text("texts"); }), HasSubstr("not a string"));
  EXPECT_THAT(error_of([&] { f.texts("text"); }), HasSubstr("not an array of strings"));
  EXPECT_THAT(error_of([&] { f.texts("numbers"); }), HasSubstr("not an array of strings"));
  EXPECT_THAT(error_of([&] { f.integers("texts"); }), HasSubstr("not an array of integers"));
  EXPECT_THAT(error_of([&] { f.flag_or("u8", true); }), HasSubstr("not true or false"));
}

TEST_F(GgufContainer, BadValuesAreErrors) {
  Bytes b;
  b.header(0, 3)
      .key("nan", kF32)
      .put(std::numeric_limits<float>::quiet_NaN())
      .key("text", kString)
      .string("\xc0\x80");
  b.key("texts", kArray).put<uint32_t>(kString).put<uint64_t>(2).string("a").string("\xed\xa0\x80");
  const GgufFile f = open(b);
  EXPECT_THAT(error_of([&] { f.number("nan"); }), HasSubstr("not finite"));
  EXPECT_THAT(error_of([&] { f.text("text"); }), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(error_of([&] { f.texts("texts"); }), HasSubstr("number 1 is not valid UTF-8"));
}

TEST_F(GgufContainer, TensorsLieWhereTheListSays) {
  Bytes b;
  b.header(2, 0).tensor("a", {3, 2}, 0, 0).tensor("b", {32}, 8, 32).data(32 + 34);
  const GgufFile f = open(b);
  const std::vector<GgufTensor> t = f.read_tensors();
  ASSERT_EQ(t.size(), 2u);
  EXPECT_EQ(t[0].name, "a");
  EXPECT_EQ(t[0].type, GgmlType::kF32);
  EXPECT_THAT(t[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(t[0].data.size(), 24u);
  EXPECT_EQ(t[1].data.size(), 34u);
  EXPECT_EQ(t[1].data.data() - t[0].data.data(), 32);
  EXPECT_EQ(t[1].data.data() + 34, f.file()->bytes().data() + f.file()->bytes().size());
}

TEST_F(GgufContainer, RefusesABadHeader) {
  Bytes junk;
  junk.put<uint64_t>(0x123456).put<uint64_t>(0).put<uint64_t>(0);
  EXPECT_THAT(error(junk), HasSubstr("not a GGUF file"));
  EXPECT_THAT(error(Bytes().header(0, 0, 1)), HasSubstr("version 1"));
  EXPECT_THAT(error(Bytes().header(0, 0, 4)), HasSubstr("version 4"));
  EXPECT_THAT(error(Bytes().header(0, 0, 3 << 24)), HasSubstr("big-endian"));
  EXPECT_THAT(error(Bytes().header(0, kHuge)), HasSubstr("truncated"));
  EXPECT_THAT(error(Bytes().header(kHuge, 0)), HasSubstr("truncated"));
  EXPECT_EQ(error(Bytes().header(0, 0)), "");
}

TEST_F(GgufContainer, RefusesBadMetadata) {
  Bytes with_length;
  with_length.header(0, 1).put(kHuge).put<uint32_t>(kU8);
  EXPECT_THAT(error(with_length), HasSubstr("a metadata key needs 18446744073709551615 bytes"));
  const auto value = [] { return Bytes().header(0, 1); };
  EXPECT_THAT(error(value().string(std::string(70000, 'k')).put<uint32_t>(kU8).put<uint8_t>(0)),
              HasSubstr("70000 bytes"));
  EXPECT_THAT(error(value().key("k", 13).put<uint64_t>(0)), HasSubstr("type number 13"));
  EXPECT_THAT(error(value().key("k", 0xffffffff).put<uint64_t>(0)), HasSubstr("type number 4294967295"));
  EXPECT_THAT(error(value().key("k", kString).put(kHuge)), HasSubstr("truncated"));
  EXPECT_THAT(error(value().key("k", kString).put(kHuge - 7)), HasSubstr("truncated"));
  EXPECT_THAT(error(value().key("k", kU64).put<uint32_t>(0)),
              HasSubstr("announces 1 values of 8 bytes, but 4"));
  EXPECT_THAT(error(value().key("k", kArray).put<uint32_t>(kU8).put(kHuge)), HasSubstr("truncated"));
  EXPECT_THAT(error(value().key("k", kArray).put<uint32_t>(kU64).put<uint64_t>(uint64_t{1} << 61)),
              HasSubstr("truncated"));
  EXPECT_THAT(error(value().key("k", kArray).put<uint32_t>(kString).put(kHuge)), HasSubstr("truncated"));
  EXPECT_THAT(error(value()
                        .key("k", kArray)
                        .put<uint32_t>(kArray)
                        .put<uint64_t>(1)
                        .put<uint32_t>(kU8)
                        .put<uint64_t>(0)),
              HasSubstr("array of arrays"));
  EXPECT_THAT(error(Bytes().header(0, 2).key("k", kU8).put<uint8_t>(0).key("k", kU8).put<uint8_t>(0)),
              HasSubstr("twice"));
  for (uint32_t alignment : {0u, 4u, 24u, 0x80000000u}) {
    EXPECT_THAT(error(value().key("general.alignment", kU32).put(alignment)), HasSubstr("power of two"))
        << alignment;
  }
}

TEST_F(GgufContainer, RefusesABadTensorList) {
  const auto one = [&](std::vector<uint64_t> dims, uint32_t type, uint64_t offset, size_t data) {
    return error(Bytes().header(1, 0).tensor("t\n", dims, type, offset).data(data));
  };
  EXPECT_EQ(one({8}, 0, 0, 32), "");
  EXPECT_THAT(one({}, 0, 0, 32), HasSubstr("'t?': 0 dimensions"));
  EXPECT_THAT(one({1, 1, 1, 1, 1}, 0, 0, 32), HasSubstr("5 dimensions"));
  EXPECT_THAT(one({0}, 0, 0, 32), HasSubstr("no possible size"));
  EXPECT_THAT(one({kHuge}, 0, 0, 32), HasSubstr("no possible size"));
  EXPECT_THAT(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0, 32), HasSubstr("no possible size"));
  EXPECT_THAT(one({uint64_t{1} << 56}, 0, 0, 32), HasSubstr("truncated"));
  EXPECT_THAT(one({256}, 10, 0, 512), HasSubstr("type number 10 is not supported"));
  EXPECT_THAT(one({33, 32}, 2, 0, 4096), HasSubstr("blocks of 32"));
  EXPECT_THAT(one({32, 8}, 12, 0, 4096), HasSubstr("blocks of 256"));
  EXPECT_THAT(one({8}, 0, 8, 64), HasSubstr("not at a multiple of 32"));
  EXPECT_THAT(one({8}, 0, 32, 32), HasSubstr("truncated"));
  EXPECT_THAT(one({8}, 0, 0, 31), HasSubstr("truncated"));
  EXPECT_THAT(one({8}, 0, kHuge - 31, 32), HasSubstr("truncated"));
  EXPECT_THAT(error(Bytes().header(2, 0).tensor("a", {8}, 0, 0).tensor("a", {8}, 0, 32).data(64)),
              HasSubstr("twice"));
  EXPECT_THAT(error(Bytes().header(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 0).data(64)),
              HasSubstr("overlap"));
  EXPECT_THAT(error(Bytes().header(2, 0).tensor("a", {8}, 0, 32).tensor("b", {9}, 0, 0).data(64)),
              HasSubstr("overlap"));
}

TEST_F(GgufContainer, SurvivesTruncationAndRandomBytes) {
  Bytes b;
  b.header(2, 3).key("general.alignment", kU32).put<uint32_t>(32).key("text", kString).string("abc");
  b.key("texts", kArray).put<uint32_t>(kString).put<uint64_t>(2).string("a").string("bc");
  b.tensor("a", {3, 2}, 0, 0).tensor("b", {32}, 8, 32).data(32 + 34);
  const auto read = [](const std::filesystem::path& path) {
    const GgufFile f = GgufFile::open(path);
    for (const GgufTensor& t : f.read_tensors()) {
      AlignedBuffer<std::byte> out(
          t.shape.size() == 1 && is_quantized(t.type) ? static_cast<size_t>(t.shape[0]) * 4 : 0);
      if (out.size() > 0) dequantize(t.type, t.data.data(), out.size() / 4, GgufDType::kF32, out.data());
    }
    if (f.has("texts")) f.texts("texts");
    f.text_or("text", "");
  };
  expect_truncations_refused(b.text(), b.text().size(), 1, read);
  EXPECT_GT(open_with_random_bytes(b.text(), b.text().size() - 66, 2000, 1, read), 500);
}

// Unicode 15, table 3-7 and its examples.
TEST(Utf8, AcceptsAndRefuses) {
  for (const char* good : {"", "a", "é", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80",
                           "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_valid_utf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "\xc1\xbf", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xe2\x82", "\xe2\x28\xa1", "\xf0\x90\x80", "\xff"}) {
    EXPECT_FALSE(is_valid_utf8(bad)) << bad;
  }
}

}  // namespace
}  // namespace nibble
