#include "io/checkpoint.h"

#include <gmock/gmock.h>

#include <fstream>

#include "io/safetensors.h"
#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kLlama = testing::mini_dir() / "models" / "llama-mini";

TEST(Checkpoint, OpensAHuggingFaceDirectory) {
  const Checkpoint c = open_checkpoint(kLlama);
  EXPECT_EQ(c.format, "safetensors");
  EXPECT_EQ(c.path, kLlama);
  EXPECT_EQ(c.config.at("hidden_size"), 256);
  EXPECT_TRUE(c.tokenizer.contains("model"));
  EXPECT_TRUE(c.generation_config.is_null());
  EXPECT_EQ(c.tensors.at("model.embed_tokens.weight").shape, (std::vector<int64_t>{2048, 256}));
  EXPECT_EQ(c.tensors.at("model.layers.5.mlp.down_proj.weight").dtype, DType::kBF16);
  EXPECT_EQ(c.file_bytes, fs::file_size(kLlama / "model.safetensors"));
  EXPECT_EQ(c.weight_files, std::vector<fs::path>{kLlama / "model.safetensors"});
  EXPECT_TRUE(c.buffers.empty()) << "an aligned file is mapped, not copied";
}

TEST(Checkpoint, KnowsItsOwnFormat) {
  TemporaryDirectory dir;
  fs::copy_file(kLlama / "model.safetensors", dir / "model.safetensors");
  write_text(dir / "config.json", R"({"quantization_config": {"quant_method": "nibble"}})");
  EXPECT_EQ(open_checkpoint(dir.path()).format, "nibble");
  write_text(dir / "config.json", R"({"quantization_config": {"quant_method": "gptq"}})");
  EXPECT_NE(error_of([&] { open_checkpoint(dir.path()); }).find("no tensor is quantized so"),
            std::string::npos);
  write_text(dir / "config.json", R"({"quantization_config": null})");
  EXPECT_EQ(open_checkpoint(dir.path()).format, "safetensors");
}

class Sharded : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text(dir_ / "config.json", "{}");
    const float a = 1, b = 2;
    write_safetensors(dir_ / "one.safetensors",
                      {{"a", {DType::kF32, {1}, reinterpret_cast<const std::byte*>(&a)}}});
    write_safetensors(dir_ / "two.safetensors",
                      {{"b", {DType::kF32, {1}, reinterpret_cast<const std::byte*>(&b)}}});
  }
  void write_index(const std::string& text) { write_text(dir_ / "model.safetensors.index.json", text); }
  TemporaryDirectory dir_;
};

TEST_F(Sharded, TakesTheTensorsOfAllFiles) {
  write_index(
      R"({"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const Checkpoint c = open_checkpoint(dir_.path());
  EXPECT_EQ(c.tensors.at("a").as<float>()[0], 1);
  EXPECT_EQ(c.tensors.at("b").as<float>()[0], 2);
  EXPECT_EQ(c.weight_files, (std::vector<fs::path>{dir_ / "one.safetensors", dir_ / "two.safetensors"}));
  EXPECT_EQ(c.file_bytes, fs::file_size(dir_ / "one.safetensors") + fs::file_size(dir_ / "two.safetensors"));
}

TEST_F(Sharded, RefusesWhatLeavesTheDirectory) {
  for (const char* shard :
       {"../one.safetensors", "/etc/passwd", "x/../../one.safetensors", "", "..", "one.safetensors\\u0000"}) {
    write_index(fmt::format(R"({{"weight_map": {{"a": "{}"}}}})", shard));
    EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("leads out of the directory"))
        << shard;
  }
}

TEST_F(Sharded, RefusesAnInconsistentIndex) {
  write_index(R"({"weight_map": {"a": "three.safetensors"}})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }),
              AllOf(HasSubstr("three.safetensors"), HasSubstr("not there")));
  write_index(R"({"weight_map": {"c": "one.safetensors"}})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), AllOf(HasSubstr("'c'"), HasSubstr("is not")));
  write_index(R"({"weight_map": {"a": 1}})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("not a string"));
  write_index(R"({"weight_map": []})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("expected an object"));
  write_index(R"({"weight_map": {}})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("is empty"));
  write_index(R"({})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("'weight_map' is missing"));
  fs::copy_file(dir_ / "one.safetensors", dir_ / "zzz.safetensors");
  write_index(R"({"weight_map": {"a": "one.safetensors", "x": "zzz.safetensors"}})");
  EXPECT_THAT(error_of([&] { open_checkpoint(dir_.path()); }), HasSubstr("already in another file"));
}

TEST(Checkpoint, SaysWhatIsMissing) {
  TemporaryDirectory dir;
  const auto open = [&] { open_checkpoint(dir.path()); };
  EXPECT_THAT(error_of([&] { open_checkpoint(dir / "nowhere"); }), HasSubstr("no such file or directory"));
  EXPECT_THAT(error_of(open), HasSubstr("no config.json"));
  write_text(dir / "config.json", "[]");
  EXPECT_THAT(error_of(open), HasSubstr("expected an object"));
  write_text(dir / "config.json", R"({"quantization_config": {"quant_method": 4}})");
  EXPECT_THAT(error_of(open), HasSubstr("quant_method"));
  write_text(dir / "config.json", "{}");
  EXPECT_THAT(error_of(open), HasSubstr("download the weights"));
  write_text(dir / "pytorch_model.bin", "x");
  EXPECT_THAT(error_of(open), HasSubstr("safe_serialization"));
  write_text(dir / "model.safetensors", "x");
  EXPECT_THAT(error_of(open), HasSubstr("too few"));
  EXPECT_THAT(error_of([&] { open_checkpoint(dir / "model.safetensors"); }), HasSubstr("name the directory"));
  write_text(dir / "tokenizer.json", "{");
  EXPECT_THAT(error_of(open), AllOf(HasSubstr("tokenizer.json"), HasSubstr("not valid JSON")));
}

TEST(Checkpoint, TokenizerAlone) {
  TemporaryDirectory dir;
  EXPECT_THAT(error_of([&] { load_tokenizer_json(dir.path()); }), HasSubstr("no tokenizer.json"));
  EXPECT_THAT(error_of([&] { load_tokenizer_json(dir / "x"); }), HasSubstr("no such file"));
  write_text(dir / "tokenizer.json", R"({"model": {"type": "BPE"}})");
  EXPECT_EQ(load_tokenizer_json(dir.path()).at("model").at("type"), "BPE");
  EXPECT_EQ(load_tokenizer_json(dir / "tokenizer.json").at("model").at("type"), "BPE");
}

// The value is what sha256sum prints.
TEST(Checkpoint, Sha256OfTheWeightFiles) {
  TemporaryDirectory dir;
  Checkpoint c;
  write_text(dir / "a", "ab");
  write_text(dir / "b", "c");
  c.weight_files = {dir / "a", dir / "b"};
  EXPECT_EQ(checkpoint_sha256(c), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  c.weight_files = {dir / "gone"};
  EXPECT_THAT(error_of([&] { checkpoint_sha256(c); }), HasSubstr("cannot be read"));
}

}  // namespace
}  // namespace nibble
