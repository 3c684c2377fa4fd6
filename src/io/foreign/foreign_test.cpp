// The codecs of other tools' layouts, against plain formulas read off their documentation.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "io/foreign/awq.h"
#include "io/foreign/bit_stream.h"
#include "io/foreign/compressed_tensors.h"
#include "io/foreign/foreign_config.h"
#include "io/foreign/gptq.h"
#include "io/test_files.h"

namespace nibble {
namespace {

ForeignLinear random_linear(int bits, int group, int64_t n, int64_t k, bool ordered, int least,
                            int greatest) {
  Random random(static_cast<uint64_t>(bits * 1000 + group + n + k));
  ForeignLinear linear{QuantizedMatrix(PackedFormat{bits, group, false, n, k}), {}};
  QuantizedMatrix& m = linear.matrix;
  for (auto& c : m.codes)
    c = static_cast<uint8_t>(random.below(static_cast<uint64_t>(m.format.max_code()) + 1));
  for (auto& s : m.scales) s = fp16_to_float(static_cast<uint16_t>(0x1800 + random.below(0x1000)));
  for (auto& z : m.zeros)
    z = static_cast<uint8_t>(least +
                             static_cast<int>(random.below(static_cast<uint64_t>(greatest - least + 1))));
  m.zeros[0] = static_cast<uint8_t>(least);
  m.zeros[m.zeros.size() - 1] = static_cast<uint8_t>(greatest);
  if (ordered && m.format.groups() > 1) {
    // A random group for every input, then the stable order that the readers make of it.
    std::vector<int32_t> groups(static_cast<size_t>(k));
    for (size_t i = 0; i < groups.size(); ++i)
      groups[i] = static_cast<int32_t>(static_cast<int64_t>(i) / m.format.group());
    for (size_t i = groups.size() - 1; i > 0; --i) std::swap(groups[i], groups[random.below(i + 1)]);
    linear.order.resize(groups.size());
    std::iota(linear.order.begin(), linear.order.end(), 0);
    std::stable_sort(linear.order.begin(), linear.order.end(), [&](int32_t a, int32_t b) {
      return groups[static_cast<size_t>(a)] < groups[static_cast<size_t>(b)];
    });
  }
  return linear;
}

TensorMap views(const std::vector<ForeignTensor>& tensors) {
  TensorMap map;
  for (const ForeignTensor& t : tensors) map["x." + t.suffix] = {t.dtype, t.shape, t.data.data()};
  return map;
}

void expect_equal(const ForeignLinear& a, const ForeignLinear& b) {
  EXPECT_EQ(a.matrix.codes, b.matrix.codes);
  EXPECT_EQ(a.matrix.scales, b.matrix.scales);
  EXPECT_EQ(a.matrix.zeros, b.matrix.zeros);
  EXPECT_EQ(a.order, b.order);
}

// The weight of output `row` and input `input`.
float value(const ForeignLinear& linear, int64_t row, int64_t input) {
  if (linear.order.empty()) return linear.matrix.value(row, input);
  const auto at = std::find(linear.order.begin(), linear.order.end(), input);
  return linear.matrix.value(row, at - linear.order.begin());
}

TEST(BitStream, PacksEveryWidthFromTheLowestBitOn) {
  Random random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t count : {1, 7, 31, 32, 33, 96, 200}) {
      std::vector<uint8_t> codes(static_cast<size_t>(count)), back(codes.size());
      for (auto& c : codes) c = static_cast<uint8_t>(random.below(uint64_t{1} << bits));
      std::vector<uint32_t> words(static_cast<size_t>(packed_words(count, bits)), 0xffffffffu);
      pack_bits(codes.data(), bits, count, words.data());
      for (int64_t i = 0; i < count; ++i) {
        for (int b = 0; b < bits; ++b) {
          const int64_t at = i * bits + b;
          EXPECT_EQ(words[static_cast<size_t>(at / 32)] >> at % 32 & 1u,
                    codes[static_cast<size_t>(i)] >> b & 1u);
        }
      }
      unpack_bits(words.data(), bits, count, back.data());
      EXPECT_EQ(back, codes);
    }
  }
}

TEST(Gptq, HoldsWhatItWasGivenInBothVersionsWithShortGroupsAndActOrder) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group : {16, 32, 128, 0}) {
      for (const bool ordered : {false, true}) {
        for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{32, 96}, {64, 608}}) {
          const int most = (1 << bits) - 1;
          const ForeignLinear plain = random_linear(bits, group, n, k, ordered, 0, most);
          std::vector<ForeignTensor> tensors = gptq_tensors(plain.matrix.format);
          fill_gptq(plain, GptqZeros::kPlain, tensors);
          expect_equal(read_gptq(views(tensors), "x", {bits, group}, GptqZeros::kPlain, "test"), plain);
          // w = s[g_idx] · (q − z[g_idx]), nibble j of row r of qweight being input 8r + j.
          if (bits == 4) {
            for (int64_t i = 0; i < k; i += 7) {
              for (int64_t row = 0; row < n; row += 5) {
                const int32_t g = tensors[3].as<int32_t>()[i];
                const int q = static_cast<int>(tensors[0].as<uint32_t>()[i / 8 * n + row] >> i % 8 * 4 & 15);
                const int z =
                    static_cast<int>(tensors[1].as<uint32_t>()[g * (n / 8) + row / 8] >> row % 8 * 4 & 15);
                const float s = fp16_to_float(tensors[2].as<uint16_t>()[g * n + row]);
                EXPECT_EQ(value(plain, row, i), s * static_cast<float>(q - z));
              }
            }
          }
          const bool byte = bits == 8;  // a zero of 256 has no place
          const ForeignLinear one = random_linear(bits, group, n, k, ordered, 1, byte ? 255 : most + 1);
          fill_gptq(one, GptqZeros::kMinusOne, tensors);
          const ForeignLinear back =
              read_gptq(views(tensors), "x", {bits, group}, GptqZeros::kMinusOne, "test");
          expect_equal(back, one);
          EXPECT_EQ(back.matrix.format.wide_zeros, !byte) << "a zero point of 2^bits takes a byte";
          if (bits != 3) {  // whole-word arithmetic keeps a zero of 0
            fill_gptq(plain, GptqZeros::kMinusOneCarried, tensors);
            expect_equal(read_gptq(views(tensors), "x", {bits, group}, GptqZeros::kMinusOneCarried, "test"),
                         plain);
          }
        }
      }
    }
  }
}

TEST(Awq, HoldsWhatItWasGivenAndInterleavesEightOutputs) {
  for (const int group : {16, 32, 0}) {
    const ForeignLinear linear = random_linear(4, group, 24, 96, false, 0, 15);
    std::vector<ForeignTensor> tensors = awq_tensors(linear.matrix.format);
    fill_awq(linear, tensors);
    expect_equal(read_awq(views(tensors), "x", {4, group}, "test"), linear);
    constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    for (int64_t i = 0; i < 96; ++i) {
      for (int64_t c = 0; c < 3; ++c) {
        for (int nibble = 0; nibble < 8; ++nibble)
          EXPECT_EQ(tensors[0].as<uint32_t>()[i * 3 + c] >> 4 * nibble & 15,
                    linear.matrix.codes[static_cast<size_t>((8 * c + kOrder[nibble]) * 96 + i)]);
      }
    }
  }
}

TEST(CompressedTensors, HoldsWhatItWasGivenAtOddShapesAndWithFloatScales) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 0}) {
      for (const bool ordered : {false, true}) {
        for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{1, 16}, {29, 96}, {33, 100}}) {
          ForeignLinear linear = random_linear(bits, group, n, k, ordered, 0, (1 << bits) - 1);
          if (ordered) linear.matrix.scales[0] = 1.2345678f;  // no fp16
          if (ordered) linear.matrix.format.scale_type = ScaleType::kF32;
          std::vector<ForeignTensor> tensors = compressed_tensors_tensors(linear.matrix.format, ordered);
          fill_compressed_tensors(linear, tensors);
          const ForeignLinear back = read_compressed_tensors(views(tensors), "x", {bits, group}, "test");
          expect_equal(back, linear);
          EXPECT_EQ(back.matrix.format.scale_type, linear.matrix.format.scale_type);
        }
      }
    }
  }
}

TEST(ForeignConfig, OverridesAndTargetsAreByName) {
  const ForeignConfig gptq(
      Json{{"quant_method", "gptq"},
           {"bits", 4},
           {"group_size", 128},
           {"dynamic",
            {{"+:.*\\.down_proj", {{"bits", 8}, {"group_size", 32}}}, {"-:.*o_proj", Json::object()}}}},
      "config.json");
  EXPECT_EQ(gptq.format("model.layers.0.mlp.up_proj"), (ForeignFormat{4, 128}));
  EXPECT_EQ(gptq.format("model.layers.0.mlp.down_proj"), (ForeignFormat{8, 32}));
  EXPECT_NE(error_of([&] { gptq.format("model.layers.0.self_attn.o_proj"); }), "");
  const Json weights = {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 64}};
  Json eight = weights;
  eight["num_bits"] = 8;
  eight["strategy"] = "channel";
  const ForeignConfig mixed(
      Json{{"quant_method", "compressed-tensors"},
           {"config_groups",
            {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}},
             {"group_1", {{"targets", {"re:.*v_proj", "model.x"}}, {"weights", eight}}}}}},
      "config.json");
  EXPECT_EQ(mixed.format("model.layers.0.self_attn.q_proj"), (ForeignFormat{4, 64}));
  EXPECT_EQ(mixed.format("model.layers.0.self_attn.v_proj"), (ForeignFormat{8, 0}));
  EXPECT_EQ(mixed.format("model.x"), (ForeignFormat{8, 0}));
}

TEST(HostileForeignConfig, EndsInOneLine) {
  const auto refused = [](const Json& config) {
    return error_of([&] { ForeignConfig(config, "config.json").format("model.layers.0.mlp.up_proj"); }) != "";
  };
  const Json good = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
  EXPECT_FALSE(refused(good));
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, Json>>{{"bits", 5},
                                                 {"bits", -4},
                                                 {"bits", "four"},
                                                 {"bits", 1e9},
                                                 {"group_size", 24},
                                                 {"group_size", -2},
                                                 {"group_size", Json::array()},
                                                 {"checkpoint_format", "marlin"},
                                                 {"dynamic", 7},
                                                 {"quant_method", "bitsandbytes"},
                                                 {"quant_method", 3},
                                                 {"dynamic", {{"+:(", {{"bits", 8}}}}},
                                                 {"dynamic", {{"+:(a+)+b", 3}}},
                                                 {"dynamic", {{std::string(5000, 'a'), Json::object()}}},
                                                 {"quant_method", "awq"}}) {
    Json bad = good;
    bad[key] = value;
    if (bad["quant_method"] == "awq") bad["version"] = "gemv";
    EXPECT_TRUE(refused(bad)) << key << " " << value.dump().substr(0, 40);
  }
  const Json slow = {{"quant_method", "gptq"}, {"dynamic", {{"+:(a|aa)+[!?]", Json::object()}}}};
  EXPECT_TRUE(error_of([&] { ForeignConfig(slow, "c").format(std::string(80, 'a')); }).find("too long") !=
              std::string::npos);
  for (const Json& groups :
       {Json(3), Json::object(), Json{{"g", 1}}, Json{{"g", {{"weights", 1}, {"targets", {"Linear"}}}}},
        Json{{"g", {{"weights", {{"num_bits", 4}, {"strategy", "block"}}}, {"targets", {"Linear"}}}}},
        Json{{"g", {{"weights", {{"num_bits", 4}, {"type", "float"}}}, {"targets", {"Linear"}}}}},
        Json{{"g", {{"weights", {{"num_bits", 4}}}, {"targets", 5}}}},
        Json{{"g", {{"weights", {{"num_bits", 4}}}, {"targets", {"Conv"}}}}}}) {
    EXPECT_TRUE(refused({{"quant_method", "compressed-tensors"}, {"config_groups", groups}}))
        << groups.dump();
  }
}

TEST(HostileForeignLinear, WrongShapesTypesAndGroupsAreRefused) {
  const ForeignLinear linear = random_linear(4, 32, 32, 96, true, 1, 15);
  const auto check = [&](const std::vector<ForeignTensor>& good, const auto& read) {
    EXPECT_EQ(error_of([&] { read(views(good)); }), "");
    for (const ForeignTensor& t : good) {
      const std::string name = "x." + t.suffix;
      TensorMap map = views(good);
      map.erase(name);
      if (t.suffix.find("g_idx") == std::string::npos && t.suffix != "weight_zero_point") {
        EXPECT_NE(error_of([&] { read(map); }), "") << name << " missing";
      }
      for (const std::vector<int64_t>& shape :
           std::vector<std::vector<int64_t>>{{1}, {1, 1}, {0, 4}, {t.shape[0], 1}, {t.shape[0]}}) {
        if (shape == t.shape) continue;
        map = views(good);
        map[name].shape = shape;
        EXPECT_NE(error_of([&] { read(map); }), "") << name << shape_string(shape);
      }
      map = views(good);
      map[name].dtype = DType::kI16;
      EXPECT_NE(error_of([&] { read(map); }), "") << name << " I16";
    }
  };
  std::vector<ForeignTensor> gptq = gptq_tensors(linear.matrix.format);
  fill_gptq(linear, GptqZeros::kPlain, gptq);
  const auto read = [](const TensorMap& map) { read_gptq(map, "x", {4, 32}, GptqZeros::kPlain, "test"); };
  check(gptq, read);
  for (const int32_t group : {-1, 3, 1 << 30, 2}) {  // outside, or one too many in a group
    std::vector<int32_t> g_idx(gptq[3].as<int32_t>(), gptq[3].as<int32_t>() + 96);
    *std::find(g_idx.begin(), g_idx.end(), 0) = group;
    TensorMap map = views(gptq);
    map["x.g_idx"].data = reinterpret_cast<const std::byte*>(g_idx.data());
    EXPECT_NE(error_of([&] { read(map); }), "") << group;
  }
  gptq[2].as<uint16_t>()[3] = 0x7e00;
  EXPECT_NE(error_of([&] { read(views(gptq)); }).find("NaN"), std::string::npos);
  std::vector<ForeignTensor> compressed = compressed_tensors_tensors(linear.matrix.format, true);
  fill_compressed_tensors(linear, compressed);
  check(compressed, [](const TensorMap& map) { read_compressed_tensors(map, "x", {4, 32}, "test"); });
  for (const int64_t size : {int64_t{-1}, int64_t{0}, INT64_MAX, int64_t{1} << 40}) {
    const int64_t shape[2] = {size, 96};
    TensorMap map = views(compressed);
    map["x.weight_shape"].data = reinterpret_cast<const std::byte*>(shape);
    EXPECT_NE(error_of([&] { read_compressed_tensors(map, "x", {4, 32}, "test"); }), "") << size;
  }
  ForeignLinear plain = linear;
  plain.order.clear();
  std::vector<ForeignTensor> awq = awq_tensors(plain.matrix.format);
  fill_awq(plain, awq);
  check(awq, [](const TensorMap& map) { read_awq(map, "x", {4, 32}, "test"); });
}

}  // namespace
}  // namespace nibble
