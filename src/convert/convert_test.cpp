// Models quantized by other tools, read, run, and written again: against those tools' own logits, and bit for
// bit.
#include "convert/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/file.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "io/foreign/repack.h"
#include "io/safetensors.h"
#include "io/test_files.h"
#include "model/facts.h"
#include "model/session.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path foreign(const std::string& name) { return testing::mini_dir() / "foreign" / name; }

// The greatest difference to the logits that the tool itself gives, everything in float32.
float logits_error(const fs::path& model_path, const fs::path& expected_file) {
  const auto model = load_model(model_path, GgufDType::kF32);
  const SafetensorsFile expected = open_safetensors(expected_file);
  const TensorView &ids = expected.tensors.at("ids"), &logits = expected.tensors.at("logits");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < ids.elements(); ++i)
    tokens.push_back(ids.dtype == DType::kI64 ? static_cast<int32_t>(ids.as<int64_t>()[i])
                                              : ids.as<int32_t>()[i]);
  ThreadPool pool(2);
  SessionOptions options;
  options.context = options.batch_tokens = static_cast<int>(tokens.size());
  options.precision = Precision::exact();
  Session session(model, options, pool);
  Batch batch;
  batch.add(0, 0, tokens);
  session.forward(batch);
  std::vector<float> rows(tokens.size() * static_cast<size_t>(model->config.vocab_size));
  session.logits(session.hidden(), static_cast<int64_t>(tokens.size()), rows.data());
  EXPECT_EQ(static_cast<int64_t>(rows.size()), logits.elements());
  float worst = 0;
  for (size_t i = 0; i < rows.size(); ++i)
    worst = std::max(worst, std::fabs(rows[i] - logits.as<float>()[i]));
  return worst;
}

class Foreign : public ::testing::TestWithParam<std::string> {};

TEST_P(Foreign, GivesTheLogitsOfTheToolThatMadeIt) {
  EXPECT_LT(logits_error(foreign(GetParam()), foreign(GetParam() + ".logits.safetensors")), 2e-3f);
}

const std::string kFixtures[] = {"gptq-sym-g32",
                                 "gptq-asym-g32",
                                 "awq-asym-g32",
                                 "compressed-tensors-sym-g64",
                                 "compressed-tensors-asym-g64",
                                 "gptq-act-order-g32",
                                 "gptq-v2-dynamic",
                                 "compressed-tensors-w8-channel"};
INSTANTIATE_TEST_SUITE_P(All, Foreign, ::testing::ValuesIn(kFixtures), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(ForeignModel, InfoNamesMethodBitsAndGroup) {
  const auto summary = [](const char* name) {
    const auto model = load_model(foreign(name));
    return std::pair(quantization_summary(*model), model_facts(*model));
  };
  const auto [gptq, gptq_facts] = summary("gptq-sym-g32");
  EXPECT_EQ(gptq["method"], "gptq");
  EXPECT_EQ(gptq["bits"], 4);
  EXPECT_EQ(gptq["group_size"], 32);
  EXPECT_EQ(gptq_facts.format, "gptq");
  EXPECT_EQ(gptq_facts.formats.begin()->first, "gptq 4-bit g32 symmetric");
  EXPECT_EQ(summary("awq-asym-g32").second.formats.begin()->first, "awq 4-bit g32");
  EXPECT_EQ(summary("compressed-tensors-asym-g64").second.formats.begin()->first,
            "compressed-tensors 4-bit g64");
  const auto mixed = summary("gptq-v2-dynamic").second.formats;
  EXPECT_EQ(mixed.at("gptq 8-bit g32"), 2);
  EXPECT_EQ(mixed.at("bf16") + mixed.at("gptq 4-bit g64"), 12);
}

TEST(ForeignModel, TheLabelOfGptqsVersionIsNotTrusted) {
  const TemporaryDirectory dir;
  fs::copy(foreign("gptq-sym-g32"), dir / "model");
  Json config = read_json_file(dir / "model/config.json");
  config["quantization_config"]["checkpoint_format"] = "gptq_v2";  // its words say 7: version 1
  fs::remove(dir / "model/config.json");
  write_text(dir / "model/config.json", config.dump());
  EXPECT_LT(logits_error(dir / "model", foreign("gptq-sym-g32.logits.safetensors")), 2e-3f);
}

// What a packed model holds, by what it means.
void expect_same_weights(const Model& a, const Model& b) {
  const auto first = a.linears(), second = b.linears();
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    const Linear &x = *first[i], &y = *second[i];
    ASSERT_EQ(x.name, y.name);
    ASSERT_EQ(x.packed.has_value(), y.packed.has_value()) << x.name;
    if (!x.packed) continue;
    const QuantizedMatrix m = unpack(*x.packed), n = unpack(*y.packed);
    ASSERT_EQ(m.codes, n.codes) << x.name;
    ASSERT_EQ(m.scales, n.scales) << x.name;
    ASSERT_EQ(m.zeros, n.zeros) << x.name;
    ASSERT_EQ(x.order == nullptr, y.order == nullptr) << x.name;
    if (!x.order) continue;
    ASSERT_TRUE(std::equal(x.order, x.order + x.k, y.order)) << x.name;
  }
}

TEST(Convert, KeepsEveryIntegerScaleAndZeroPointInEveryFormat) {
  const TemporaryDirectory dir;
  for (const std::string& name : kFixtures) {
    const auto original = load_model(foreign(name));
    for (const std::string& to : export_format_names()) {
      if (to == "gguf") continue;
      // Act-order, 8 bits and mixtures are more than AWQ says.
      const bool plain = name.find("act-order") == std::string::npos &&
                         name.find("dynamic") == std::string::npos && name.find("w8") == std::string::npos;
      if (to == "awq" && !plain) continue;
      if (to == "compressed-tensors" && name == "gptq-act-order-g32") continue;  // 600 inputs
      const fs::path out = dir / (name + "." + to);
      const ConvertReport report = convert_model(*original, {export_format(to), false, false}, out);
      EXPECT_TRUE(report.dequantized.empty());
      EXPECT_EQ(report.file_bytes, fs::file_size(out / "model.safetensors"));
      const auto back = load_model(out);
      EXPECT_EQ(back->checkpoint().format, to == "gptq_v2" ? "gptq" : to);
      expect_same_weights(*original, *back);
      EXPECT_EQ(read_file(out / "tokenizer.json"), read_file(foreign(name) / "tokenizer.json"));
      fs::remove_all(out);
    }
  }
}

TEST(Convert, WritesTheSameTensorsThatItRead) {
  const TemporaryDirectory dir;
  for (const auto& [name, to] : std::vector<std::pair<std::string, std::string>>{
           {"gptq-asym-g32", "gptq"}, {"gptq-act-order-g32", "gptq"}, {"awq-asym-g32", "awq"}}) {
    convert_model(*load_model(foreign(name)), {export_format(to), false, false}, dir / name);
    const SafetensorsFile before = open_safetensors(foreign(name) / "model.safetensors"),
                          after = open_safetensors(dir / name / "model.safetensors");
    ASSERT_EQ(before.tensors.size(), after.tensors.size());
    for (const auto& [tensor, view] : before.tensors) {
      const TensorView& other = after.tensors.at(tensor);
      ASSERT_EQ(view.shape, other.shape) << tensor;
      ASSERT_EQ(view.dtype, other.dtype) << tensor;
      ASSERT_EQ(0, std::memcmp(view.data, other.data, view.bytes())) << tensor;
    }
  }
}

TEST(Convert, GgufHoldsEveryWeightExactly) {
  const TemporaryDirectory dir;
  for (const char* name : {"gptq-sym-g32", "gptq-asym-g32", "compressed-tensors-sym-g64"}) {
    const fs::path out = dir / (std::string(name) + ".gguf");
    const auto original = load_model(foreign(name));
    const ConvertReport report = convert_model(*original, {ExportFormat::kGguf, false, false}, out);
    EXPECT_EQ(report.file_bytes, fs::file_size(out));
    EXPECT_EQ(report.types.count(std::string(name).find("asym") == std::string::npos ? "Q4_0" : "Q8_0"), 1u);
    const auto back = load_model(out, GgufDType::kF32);
    EXPECT_EQ(back->config.end_tokens, original->config.end_tokens);
    std::vector<float> row(4096);
    for (size_t i = 0; i < original->linears().size(); ++i) {
      const Linear &x = *original->linears()[i], &y = *back->linears()[i];
      ASSERT_EQ(y.dense.dtype, DType::kF32);
      for (int64_t r = 0; r < x.n; ++r) {
        dequantize_row(*x.packed, r, row.data());
        ASSERT_EQ(0, std::memcmp(row.data(), static_cast<const float*>(y.dense.data) + r * x.k,
                                 static_cast<size_t>(x.k) * sizeof(float)))
            << x.name << " row " << r;
      }
    }
    EXPECT_LT(logits_error(out, foreign(std::string(name) + ".logits.safetensors")), 2e-3f);
    const std::string text = "It is 12345 o'clock;\n\n  isn't it?";
    EXPECT_EQ(load_tokenizer(out)->encode(text), load_tokenizer(foreign(name))->encode(text));
  }
}

TEST(Convert, GgufOfASentencePieceTokenizer) {
  const TemporaryDirectory dir;
  fs::copy(foreign("gptq-sym-g32"), dir / "model");
  const auto write_tokenizer = [&](const Json& json) {
    fs::remove(dir / "model/tokenizer.json");
    write_text(dir / "model/tokenizer.json", json.dump());
  };
  Json tokenizer = read_json_file(testing::source_dir() / "tests/golden/sentencepiece.json").at("base");
  write_tokenizer(tokenizer);
  const auto original = load_model(dir / "model");
  convert_model(*original, {ExportFormat::kGguf, false, false}, dir / "x.gguf");
  const auto back = load_tokenizer(dir / "x.gguf");
  EXPECT_EQ(back->start_token(), 1);
  for (const char* text :
       {"", "The bridge was opened in 1758.", " a  b</s> c", "é 漢字 \U0001f999\n<0x41>"}) {
    EXPECT_EQ(back->encode(text), original->load_tokenizer().encode(text)) << text;
    EXPECT_EQ(back->decode(back->encode(text)), original->load_tokenizer().decode(back->encode(text)))
        << text;
  }
  const auto refusal = [&] {
    return error_of([&] {
      convert_model(*load_model(dir / "model"), {ExportFormat::kGguf, false, false}, dir / "y.gguf");
    });
  };
  tokenizer["model"]["merges"].erase(5);  // llama.cpp joins whatever makes a token
  write_tokenizer(tokenizer);
  EXPECT_NE(refusal().find("no scores of its tokens give"), std::string::npos);
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}};
  write_tokenizer(tokenizer);
  EXPECT_NE(refusal().find("llama.cpp has no name known here"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir / "y.gguf"));
}

TEST(Convert, RefusesWhatAFormatCannotSayAndNamesTheOption) {
  const TemporaryDirectory dir;
  const auto refusal = [&](const char* name, const char* to) {
    const fs::path out = dir / "refused";
    const std::string message = error_of([&] {
      convert_model(*load_model(foreign(name)), {export_format(to), false, false}, out);
    });
    EXPECT_FALSE(fs::exists(out)) << "nothing may be left";
    return message;
  };
  EXPECT_NE(refusal("gptq-act-order-g32", "awq").find("act-order"), std::string::npos);
  EXPECT_NE(refusal("gptq-act-order-g32", "gguf").find("act-order"), std::string::npos);
  EXPECT_NE(refusal("gptq-v2-dynamic", "awq").find("mlp.down_proj: 8 bits"), std::string::npos);
  EXPECT_NE(
      refusal("gptq-act-order-g32", "compressed-tensors").find("600 inputs leave a short last group of 24"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              convert_model(*load_model(testing::mini_dir() / "models/llama-mini"),
                            {ExportFormat::kGptq, false, false}, dir / "dense");
            }).find("nibble quantize"),
            std::string::npos);
  // Asked for, the layers that do not fit become F16 and are named.
  const ConvertReport report =
      convert_model(*load_model(foreign("gptq-v2-dynamic")), {ExportFormat::kAwq, true, false}, dir / "awq");
  EXPECT_EQ(report.dequantized.size(), 2u);
  EXPECT_NO_THROW(load_model(dir / "awq"));
  EXPECT_NE(
      error_of([&] {
        convert_model(*load_model(foreign("gptq-sym-g32")), {ExportFormat::kAwq, false, false}, dir / "awq");
      }).find("--force"),
      std::string::npos);
  EXPECT_THROW(export_format("ggml"), UsageError);
}

TEST(HostileForeignDirectory, DamagedFilesEndInErrors) {
  for (const char* name : {"gptq-v2-dynamic", "gptq-act-order-g32", "compressed-tensors-w8-channel"}) {
    const TemporaryDirectory dir;
    fs::copy(foreign(name), dir / "model");
    const fs::path config_file = dir / "model/config.json", weights = dir / "model/model.safetensors";
    const Json good = read_json_file(config_file);
    const auto refuses = [&](const std::string& what, const std::function<void(Json&)>& damage) {
      Json bad = good;
      damage(bad);
      fs::remove(config_file);
      write_text(config_file, bad.dump());
      EXPECT_NE(error_of([&] { load_model(dir / "model"); }), "") << name << ": " << what;
    };
    for (const Json& bits : {Json(2), Json(3), Json(5), Json(-4), Json("x"), Json(1u << 31)}) {
      refuses("bits " + bits.dump(), [&](Json& c) {
        Json& q = c["quantization_config"];
        (q.contains("config_groups") ? q["config_groups"]["group_0"]["weights"]["num_bits"] : q["bits"]) =
            bits;
      });
    }
    refuses("another method", [](Json& c) { c["quantization_config"]["quant_method"] = "awq"; });
    refuses("no such method", [](Json& c) { c["quantization_config"]["quant_method"] = "exl2"; });
    refuses("no object", [](Json& c) { c["quantization_config"] = Json::array({1}); });
    refuses("another width", [](Json& c) { c["intermediate_size"] = 608; });
    refuses("more heads", [](Json& c) { c["num_attention_heads"] = 14; });
    fs::remove(config_file);
    write_text(config_file, good.dump());
    EXPECT_NO_THROW(load_model(dir / "model"));
    // Bytes of the data changed at random: any error, or a model that is merely wrong.
    const std::string whole = read_file(weights);
    Random random(7);
    for (int i = 0; i < 10; ++i) {
      std::string damaged = whole;
      for (int k = 0; k < 200; ++k)
        damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      fs::remove(weights);
      write_text(weights, damaged);
      error_of([&] { load_model(dir / "model"); });
    }
    fs::remove(weights);
    write_text(weights, std::string_view(whole).substr(0, whole.size() - 1));
    EXPECT_NE(error_of([&] { load_model(dir / "model"); }), "");
  }
}

}  // namespace
}  // namespace nibble
