// What quantize_model writes, read back; and damaged copies of it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <tuple>

#include "base/file.h"
#include "quant/quantize.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class NibbleDirectory : public ::testing::Test {
 protected:
  void SetUp() override { dir_ = fs::temp_directory_path() / fmt::format("nibble-directory-{}", ::getpid()); }
  void TearDown() override { fs::remove_all(dir_); }

  OrderedJson quantize(const std::string& model, const LayerPlan& plan, int head_bits = 8,
                       bool force = false) {
    QuantizeOptions options;
    options.plan.base = plan;
    options.head_bits = head_bits;
    return quantize_model(load_model(testing::mini_dir() / "models" / model), options, dir_, force, pool_,
                          {});
  }

  ThreadPool pool_{2};
  fs::path dir_;
};
using HostileNibbleDirectory = NibbleDirectory;

TEST_F(NibbleDirectory, HoldsWhatTheReportSays) {
  for (const char* name : {"llama-mini", "phi-mini"}) {
    const OrderedJson report = quantize(name, {"rtn", 4, 64, false}, 8, true);
    const auto original = load_model(testing::mini_dir() / "models" / name);
    const auto model = load_model(dir_);
    EXPECT_TRUE(model->is_quantized());
    EXPECT_EQ(model->checkpoint().format, "nibble");
    EXPECT_EQ(model->parameters(), original->parameters());
    EXPECT_EQ(report["model_sha256"], checkpoint_sha256(model->checkpoint()));
    EXPECT_EQ(report["totals"]["file_bytes"], model->checkpoint().file_bytes);
    const OrderedJson& parts = report["totals"]["parts"];
    uint64_t parameters = 0, bytes = 0;
    for (const auto& [part_name, part] : parts.items()) {
      parameters += part["parameters"].get<uint64_t>();
      bytes += part["bytes"].get<uint64_t>();
    }
    EXPECT_EQ(parameters, model->parameters());
    EXPECT_EQ(bytes, model->weight_bytes());
    EXPECT_LT(model->weight_bytes(), 0.45 * static_cast<double>(original->weight_bytes()));
    for (const Linear* linear : model->linears()) {
      ASSERT_TRUE(linear->packed) << linear->name;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(linear->packed->codes) % 64, 0u) << linear->name;
      EXPECT_EQ(linear->packed->format.group_size, 64);
    }
    // Every weight within a step of the original's.
    const Linear &before = original->blocks[0].down, &after = model->blocks[0].down;
    const auto exact = to_float(
        {before.dense.dtype, {before.n, before.k}, static_cast<const std::byte*>(before.dense.data)});
    std::vector<float> row(static_cast<size_t>(after.k));
    for (int64_t r = 0; r < after.n; ++r) {
      dequantize_row(*after.packed, r, row.data());
      for (int64_t i = 0; i < after.k; ++i)
        ASSERT_LE(std::fabs(row[static_cast<size_t>(i)] - exact[static_cast<size_t>(r * after.k + i)]),
                  0.51f * packed_scale(*after.packed, r, i / 64) + 1e-4f);
    }
  }
}

TEST_F(NibbleDirectory, ScalesOfBytesTakeFewerBytesAndSayTheirLayout) {
  quantize("llama-mini", {"rtn", 4, 32, false});
  const auto half = load_model(dir_);
  const auto version = [&] {
    return read_json_file(dir_ / "config.json")["quantization_config"]["layout_version"].get<int>();
  };
  EXPECT_EQ(version(), 1);
  const OrderedJson report = quantize("llama-mini", {"rtn", 4, 32, false, 8}, 8, true);
  const auto bytes = load_model(dir_);
  EXPECT_EQ(version(), 3);
  EXPECT_EQ(report["scale_bits"], 8);
  for (size_t i = 0; i < bytes->linears().size(); ++i) {
    const PackedFormat &f = bytes->linears()[i]->packed->format, &g = half->linears()[i]->packed->format;
    EXPECT_EQ(f.scale_type, ScaleType::kByte);
    EXPECT_EQ(g.bytes() - f.bytes(), f.panels() * kPanelRows * (f.groups() - 1));
  }
}

TEST_F(NibbleDirectory, IsNotWrittenOverWithoutForceNorQuantizedTwice) {
  quantize("qwen2-mini", {"rtn", 4, 32, true});
  EXPECT_THROW(quantize("qwen2-mini", {"rtn", 4, 32, true}), Error);
  QuantizeOptions options;
  options.plan.base = {"rtn", 4, 64, false};
  EXPECT_THROW(quantize_model(load_model(dir_), options, dir_.string() + "-again", false, pool_, {}), Error);
  fs::remove_all(dir_.string() + "-again");
  options.plan.base = {"gptq", 4, 64, false};
  EXPECT_THROW(quantize_model(load_model(testing::mini_dir() / "models" / "qwen2-mini"), options, dir_, true,
                              pool_, {}),
               Error)
      << "gptq without calibration text";
  options.head_bits = 5;
  EXPECT_THROW(options.validate(), UsageError);
}

// Whatever stops a quantization, the same call goes on with the block in hand and ends with the same bytes.
TEST_F(NibbleDirectory, AnInterruptedQuantizationGoesOn) {
  struct Stop {};
  for (const auto& [name, method, scale_bits] :
       {std::tuple{"llama-mini", "gsq", 16}, {"phi-mini", "gptq+ff", 8}}) {
    const auto model = load_model(testing::mini_dir() / "models" / name);
    QuantizeOptions options;
    options.plan.base = {method, 4, 64, false, scale_bits};
    options.calibration.files = bundled_calibration(testing::mini_dir() / "data");
    options.calibration.samples = 2;
    options.calibration.seqlen = 64;
    const auto run = [&](const fs::path& out, int stop_before, bool force) {
      int begun = 0;
      const OrderedJson report = quantize_model(model, options, out, force, pool_, [&](int done, int) {
        if (done == stop_before) throw Stop{};
        ++begun;
      });
      EXPECT_EQ(begun, model->config.n_layers + 1);
      return report;
    };
    const fs::path whole = dir_ / "whole", pieces = dir_ / "pieces";
    OrderedJson expected = run(whole, -1, false);
    EXPECT_THROW(run(pieces, 1, false), Stop);
    const fs::path first = pieces / "unfinished/block-000.safetensors";
    ASSERT_TRUE(fs::exists(first));
    const auto written = fs::last_write_time(first);
    EXPECT_FALSE(fs::exists(pieces / kQuantizationReport));
    EXPECT_THROW(run(pieces, 2, true), Stop);
    EXPECT_EQ(fs::last_write_time(first), written) << "made again";
    const OrderedJson resumed = run(pieces, -1, false);
    EXPECT_FALSE(fs::exists(pieces / "unfinished"));
    const auto same_weights = [&] {
      return read_file(pieces / "model.safetensors") == read_file(whole / "model.safetensors");
    };
    EXPECT_TRUE(same_weights());
    ASSERT_EQ(resumed["linears"].size(), expected["linears"].size());
    for (size_t i = 0; i < expected["linears"].size(); ++i) {
      OrderedJson a = resumed["linears"][i], b = expected["linears"][i];
      a.erase("seconds");
      b.erase("seconds");
      EXPECT_EQ(a, b);
    }
    // What was begun with other settings is not gone on with.
    EXPECT_THROW(run(pieces, 1, true), Stop);
    options.calibration.seed = 1;
    run(pieces, -1, true);
    EXPECT_FALSE(same_weights());
    fs::remove_all(dir_);
  }
}

TEST_F(HostileNibbleDirectory, WrongConfigurationsEndInErrors) {
  quantize("llama-mini", {"rtn", 4, 64, false});
  const Json good = read_json_file(dir_ / "config.json");
  const auto refuses = [&](const std::string& what, const std::function<void(Json&)>& damage) {
    Json bad = good;
    damage(bad);
    write_file_atomically(dir_ / "config.json", bad.dump());
    EXPECT_THROW(load_model(dir_), Error) << what;
  };
  const std::string layer = "model.layers.1.mlp.down_proj";
  const auto set = [&](const char* key, const Json& value) {
    refuses(fmt::format("{} = {}", key, value.dump()),
            [&](Json& c) { c["quantization_config"]["linears"][layer][key] = value; });
  };
  for (const Json& bits : {Json(2), Json(5), Json(8), Json(0), Json(-4), Json("four"), Json(nullptr)})
    set("bits", bits);
  for (const Json& group : {Json(16), Json(24), Json(-64), Json("x")}) set("group_size", group);
  set("symmetric", "no");
  set("byte_scales", true);
  set("float_scales", true);
  refuses("layout", [](Json& c) { c["quantization_config"]["layout_version"] = 99; });
  refuses("method", [](Json& c) { c["quantization_config"]["quant_method"] = "awq"; });
  refuses("linears", [](Json& c) { c["quantization_config"]["linears"] = 7; });
  refuses("a layer forgotten", [&](Json& c) { c["quantization_config"]["linears"].erase(layer); });
  refuses("another shape", [](Json& c) { c["intermediate_size"] = 705; });
  refuses("another vocabulary", [](Json& c) { c["vocab_size"] = 1 << 23; });
  write_file_atomically(dir_ / "config.json", good.dump());
  EXPECT_NO_THROW(load_model(dir_));
  fs::resize_file(dir_ / "model.safetensors", fs::file_size(dir_ / "model.safetensors") - 1);
  EXPECT_THROW(load_model(dir_), Error);
}

}  // namespace
}  // namespace nibble
