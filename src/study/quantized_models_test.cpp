#include "study/quantized_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "io/test_files.h"
#include "model/find_model.h"
#include "quant/calibration.h"
#include "quant/quantize.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

std::string foreign(const std::string& name) { return (testing::mini_dir() / "foreign" / name).string(); }

StudyPlan described(std::vector<std::string> models, std::vector<QuantizedModel> quantized = {}) {
  StudyPlan plan;
  plan.models = std::move(models);
  plan.quantized = std::move(quantized);
  describe_quantized(plan, find_model);
  return plan;
}

// llama-mini by AutoRound and llm-compressor, whose norms, embedding and shapes are still its own.
TEST(QuantizedModels, AreNamedAndPairedWithWhatTheyWereMadeOf) {
  const StudyPlan plan = described({"qwen2-mini", foreign("gptq-sym-g32"), "llama-mini",
                                    foreign("awq-asym-g32"), foreign("compressed-tensors-asym-g64")});
  EXPECT_THAT(plan.models, ElementsAre("qwen2-mini", "llama-mini"));
  EXPECT_THAT(plan.quantized,
              ElementsAre(QuantizedModel{foreign("gptq-sym-g32"), "llama-mini", "gptq", 4, 32},
                          QuantizedModel{foreign("awq-asym-g32"), "llama-mini", "awq", 4, 32},
                          QuantizedModel{foreign("compressed-tensors-asym-g64"), "llama-mini",
                                         "compressed-tensors", 4, 64}));
  EXPECT_THAT(description(plan.quantized[0]), HasSubstr("gptq 4-bit g32, quantized before"));
  EXPECT_THAT(description(plan.quantized[0]), HasSubstr("against llama-mini"));
}

// Its embedding is rounded too: it is llama-mini's all the same, and not that of a model of these shapes and
// other weights.
TEST(QuantizedModels, ADirectoryOfOurOwnIsPairedThroughItsRoundedEmbedding) {
  const TemporaryDirectory dir;
  ThreadPool pool(2);
  for (const int head_bits : {8, 4}) {
    QuantizeOptions options;
    options.plan.base.method = "rtn";
    options.head_bits = head_bits;
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 1;
    const fs::path out = dir / fmt::format("q{}", head_bits);
    quantize_model(load_model(testing::mini_dir() / "models" / "llama-mini"), options, out, false, pool, {});
    const StudyPlan plan = described({"qwen2-mini", "llama-mini", out.string()});
    EXPECT_THAT(plan.quantized, ElementsAre(QuantizedModel{out.string(), "llama-mini", "rtn", 4, 64}));
  }
}

// Two layers of llama-mini are another model than its six; a mixture goes by what most linears have.
TEST(QuantizedModels, StandAloneWhereNoModelHasTheirShapesAndEmbedding) {
  const StudyPlan plan = described(
      {"llama-mini", "qwen2-mini", foreign("gptq-v2-dynamic"), foreign("compressed-tensors-w8-channel")});
  EXPECT_THAT(plan.quantized, ElementsAre(QuantizedModel{foreign("gptq-v2-dynamic"), "", "gptq", 4, 64},
                                          QuantizedModel{foreign("compressed-tensors-w8-channel"), "",
                                                         "compressed-tensors", 8, 0}));
  EXPECT_THAT(description(plan.quantized[0]), HasSubstr("its unquantized model is not in the study"));
}

// The same shapes with other weights: another training.
TEST(QuantizedModels, AnEmbeddingThatDiffersIsAnotherModels) {
  const TemporaryDirectory dir;
  const fs::path copy = dir / "other", weights = copy / "model.safetensors";
  fs::copy(testing::mini_dir() / "models" / "llama-mini", copy);
  std::string bytes = read_file(weights);
  const Json header = parse_json(
      std::string_view(bytes).substr(8, *reinterpret_cast<const uint64_t*>(bytes.data())), "header");
  const auto begin = header.at("model.embed_tokens.weight").at("data_offsets").at(0).get<size_t>();
  bytes[8 + *reinterpret_cast<const uint64_t*>(bytes.data()) + begin + 1] ^= 1;  // an exponent bit of row 0
  fs::remove(weights);
  write_text(weights, bytes);
  EXPECT_EQ(described({copy.string(), foreign("awq-asym-g32")}).quantized.at(0).of, "");
  EXPECT_EQ(described({copy.string(), "llama-mini", foreign("awq-asym-g32")}).quantized.at(0).of,
            "llama-mini");
  // Said by hand, it stands; twice the same model cannot be told apart.
  EXPECT_EQ(
      described({copy.string()}, {{foreign("awq-asym-g32"), copy.string(), "", 0, 0}}).quantized.at(0).of,
      copy.string());
  const std::string path = (testing::mini_dir() / "models" / "llama-mini").string();
  EXPECT_THAT(error_of([&] {
                described({"llama-mini", path, foreign("awq-asym-g32")});
              }),
              HasSubstr("could each be what it was made of"));
}

TEST(QuantizedModels, WhatThePlanSaysWrongIsRefused) {
  EXPECT_THAT(error_of([] {
                described({}, {{foreign("awq-asym-g32"), "", "gptq", 4, 32}});
              }),
              HasSubstr("the plan says gptq 4-bit g32, its files awq 4-bit g32"));
  EXPECT_THAT(error_of([] {
                described({"qwen2-mini"}, {{foreign("awq-asym-g32"), "qwen2-mini", "", 0, 0}});
              }),
              HasSubstr("qwen2-mini has other shapes"));
  EXPECT_THAT(error_of([] {
                described({}, {{"llama-mini", "", "", 0, 0}});
              }),
              HasSubstr("no linear of it is quantized"));
  const TemporaryDirectory dir;
  fs::copy(foreign("gptq-sym-g32"), dir / "marlin");
  Json config = read_json_file(dir / "marlin/config.json");
  config["quantization_config"]["checkpoint_format"] = "marlin";
  fs::remove(dir / "marlin/config.json");
  write_text(dir / "marlin/config.json", config.dump());
  EXPECT_THAT(error_of([&] { described({(dir / "marlin").string()}); }), HasSubstr("marlin"));
}

TEST(QuantizedModels, OthersStayWhereTheyAre) {
  const StudyPlan plan = described({"llama-mini", "/no/such/model"});
  EXPECT_THAT(plan.models, ElementsAre("llama-mini", "/no/such/model"));
  EXPECT_THAT(plan.quantized, IsEmpty());
}

}  // namespace
}  // namespace nibble
