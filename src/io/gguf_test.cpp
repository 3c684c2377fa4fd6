#include "io/gguf.h"

#include <gmock/gmock.h>

#include <cstring>

#include "io/hostile_files.h"
#include "io/safetensors.h"
#include "io/test_files.h"
#include "test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
  return testing::source_dir() / "tests" / "golden" / "gguf" / name;
}

void open_both(const fs::path& path) {
  open_gguf(path, GgufDType::kBF16);
  open_gguf(path, GgufDType::kF32);
}

// Replaces the only occurrence of a text in the file; of the same length, so that nothing moves.
std::string patched(std::string file, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const size_t at = file.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  EXPECT_EQ(file.find(from, at + 1), std::string::npos) << from << " is not unique";
  return file.replace(at, from.size(), to);
}

class GgufModel : public ::testing::TestWithParam<const char*> {
 protected:
  Checkpoint checkpoint_ = open_checkpoint(golden(std::string(GetParam()) + ".gguf"));
  Json expected_ = read_json_file(golden(std::string(GetParam()) + ".json"));
};
INSTANTIATE_TEST_SUITE_P(Architectures, GgufModel, ::testing::Values("llama", "qwen2", "phi2"));

// Files made as llama.cpp's converter makes them must give back the tensors they were made from.
TEST_P(GgufModel, TensorsAreTheOriginals) {
  const SafetensorsFile want = open_safetensors(golden(std::string(GetParam()) + ".safetensors"));
  EXPECT_EQ(checkpoint_.tensors.size(), want.tensors.size());
  for (const auto& [name, view] : want.tensors) {
    ASSERT_TRUE(checkpoint_.tensors.contains(name)) << name;
    const TensorView& got = checkpoint_.tensors.at(name);
    EXPECT_EQ(got.shape, view.shape) << name;
    ASSERT_EQ(dtype_name(got.dtype), dtype_name(view.dtype)) << name;
    EXPECT_EQ(std::memcmp(got.data, view.data, view.bytes()), 0) << name;
    EXPECT_TRUE(checkpoint_.source_types.contains(name)) << name;
  }
}

TEST_P(GgufModel, MetadataBecomesHuggingFaceJson) {
  EXPECT_EQ(checkpoint_.format, "gguf");
  for (const auto& [key, value] : expected_.at("config").items())
    EXPECT_EQ(checkpoint_.config.value(key, Json("?")), value) << key;
  EXPECT_EQ(checkpoint_.generation_config, expected_.at("generation_config"));
  EXPECT_EQ(checkpoint_.tokenizer, expected_.at("tokenizer")) << checkpoint_.tokenizer.dump(1);
  EXPECT_EQ(load_tokenizer_json(checkpoint_.path), checkpoint_.tokenizer);
  EXPECT_EQ(checkpoint_.file_bytes, fs::file_size(checkpoint_.path));
}

TEST(Gguf, OnlyWhatChangesIsCopied) {
  const Checkpoint c = open_checkpoint(golden("llama.gguf"));
  const auto in_file = [&](const char* name) {
    const auto bytes = c.files.at(0)->bytes();
    const std::byte* data = c.tensors.at(name).data;
    return data >= bytes.data() && data < bytes.data() + bytes.size();
  };
  EXPECT_TRUE(in_file("model.layers.0.self_attn.o_proj.weight"));   // BF16
  EXPECT_TRUE(in_file("model.norm.weight"));                        // F32
  EXPECT_FALSE(in_file("model.layers.0.self_attn.k_proj.weight"));  // F16, rows permuted
  EXPECT_FALSE(in_file("model.layers.0.mlp.gate_proj.weight"));     // Q5_0
  EXPECT_EQ(c.source_types.at("model.layers.0.mlp.gate_proj.weight"), "Q5_0");
  EXPECT_EQ(c.source_types.at("model.norm.weight"), "F32");
}

TEST(Gguf, AsFloat32) {
  const Checkpoint narrow = open_checkpoint(golden("phi2.gguf"));
  const Checkpoint wide = open_checkpoint(golden("phi2.gguf"), GgufDType::kF32);
  EXPECT_EQ(wide.config.at("torch_dtype"), "float32");
  EXPECT_EQ(wide.tensors.size(), narrow.tensors.size());
  for (const auto& [name, view] : wide.tensors) {
    EXPECT_EQ(view.dtype, DType::kF32) << name;
    const std::vector<float> exact = to_float(view), rounded = to_float(narrow.tensors.at(name));
    ASSERT_EQ(exact.size(), rounded.size());
    const bool was_quantized = narrow.tensors.at(name).dtype == DType::kBF16;
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(was_quantized ? bf16_to_float(float_to_bf16(exact[i])) : exact[i], rounded[i])
          << name << " " << i;
    }
  }
}

TEST(Gguf, Version2) {
  const TemporaryDirectory dir;
  std::string file = read_file(golden("qwen2.gguf"));
  file[4] = 2;
  write_text(dir / "v2.gguf", file);
  EXPECT_EQ(open_checkpoint(dir / "v2.gguf").tensors.size(),
            open_checkpoint(golden("qwen2.gguf")).tensors.size());
}

TEST(Gguf, NamesWhatItDoesNotKnow) {
  const TemporaryDirectory dir;
  const auto error = [&](const char* base, const std::string& from, const std::string& to) {
    write_text(dir / "x.gguf", patched(read_file(golden(base)), from, to));
    return error_of([&] { open_checkpoint(dir / "x.gguf"); });
  };
  EXPECT_THAT(error("llama.gguf", "llama-bpe", "llama-abc"), HasSubstr("pre-tokenizer 'llama-abc'"));
  EXPECT_THAT(error("llama.gguf", "gpt2", "gpt7"), HasSubstr("tokenizer 'gpt7'"));
  EXPECT_THAT(error("llama.gguf", "tokenizer.ggml.pre", "tokenizer.ggml.prf"),
              HasSubstr("'tokenizer.ggml.pre' is missing"));
  EXPECT_THAT(error("llama.gguf", "rope_freqs.weight", "rope_freks.weight"),
              HasSubstr("'rope_freks.weight'"));
  EXPECT_THAT(error("llama.gguf", "blk.1.ffn_gate.weight", "blk.x.ffn_gate.weight"),
              HasSubstr("'blk.x.ffn_gate.weight'"));
  EXPECT_THAT(error("llama.gguf", "blk.1.ffn_gate.weight", "blk.01ffn_gate.weight"),
              HasSubstr("'blk.01ffn_gate.weight'"));
  EXPECT_THAT(error("llama.gguf", "blk.1.ffn_gate.weight", "blk.0.ffn_gate.weighs"),
              HasSubstr("'blk.0.ffn_gate.weighs'"));
  EXPECT_THAT(error("llama.gguf", "blk.1.ffn_gate.weight", "blk.00.ffn_up.weight."), HasSubstr("is not one"));
  EXPECT_THAT(error("qwen2.gguf", "blk.0.attn_v.weight", "blk.00.attn_v.weigh"), HasSubstr("is not one"));
  EXPECT_THAT(error("llama.gguf", "llama.attention.head_count_kv", "llama.attention.head_count_kw"),
              HasSubstr("rows"));
  EXPECT_THAT(error("llama.gguf", "llama.block_count", "llama.clock_count"),
              HasSubstr("'llama.block_count' is missing"));
  EXPECT_THAT(error("llama.gguf", "token_embd.weight", "blk.2.ffn_up.bias"), HasSubstr("token_embd.weight"));
  EXPECT_THAT(error("llama.gguf", "<turn>", "<end>\xff"), HasSubstr("UTF-8"));
  EXPECT_THAT(error("llama.gguf", "[PAD14]", "<start>"), HasSubstr("twice in the vocabulary"));
  EXPECT_THAT(error("llama.gguf", "ab c", "ab-c"), HasSubstr("'ab-c' is not a merge"));
  EXPECT_THAT(error("llama.gguf", "ab c", "abc "), HasSubstr("'abc ' is not a merge"));
  EXPECT_THAT(error("llama.gguf", "llama.rope.freq_base", "llama.qope.freq_base"), "")
      << "10,000 is the default";
}

// The u32 after a key's name and type.
std::string with_u32(std::string file, const std::string& key, uint32_t value) {
  const size_t at = file.find(key);
  EXPECT_NE(at, std::string::npos) << key;
  std::memcpy(file.data() + at + key.size() + sizeof(uint32_t), &value, sizeof value);
  return file;
}

TEST(Gguf, RefusesCountsThatDoNotFit) {
  const TemporaryDirectory dir;
  const auto error = [&](const char* base, const std::string& key, uint32_t value) {
    replace_file(dir / "x.gguf", with_u32(read_file(golden(base)), key, value));
    return error_of([&] { open_checkpoint(dir / "x.gguf"); });
  };
  EXPECT_EQ(error("phi2.gguf", "phi2.attention.head_count", 4), "") << "as it is";
  EXPECT_THAT(error("phi2.gguf", "phi2.attention.head_count", 0), HasSubstr("expected 1 to"));
  EXPECT_THAT(error("phi2.gguf", "phi2.attention.head_count", 0xffffffff), HasSubstr("expected 1 to"));
  EXPECT_THAT(error("phi2.gguf", "phi2.attention.head_count", 5), HasSubstr("do not divide"));
  EXPECT_THAT(error("phi2.gguf", "phi2.attention.head_count", 0x7fffffff), HasSubstr("do not divide"));
  EXPECT_THAT(error("phi2.gguf", "phi2.embedding_length", 64), HasSubstr("of q, k and v"));
  EXPECT_THAT(error("phi2.gguf", "phi2.rope.dimension_count", 16), HasSubstr("rope turns 16"));
  EXPECT_THAT(error("llama.gguf", "llama.attention.head_count_kv", 3), HasSubstr("evenly"));
  EXPECT_THAT(error("llama.gguf", "llama.attention.head_count_kv", 1), HasSubstr("expected 1 heads of 8"));
  EXPECT_THAT(error("llama.gguf", "llama.block_count", 0), HasSubstr("expected 1 to"));
  EXPECT_THAT(error("llama.gguf", "tokenizer.ggml.bos_token_id", 16), HasSubstr("there are 16 tokens"));
  EXPECT_THAT(error("qwen2.gguf", "tokenizer.ggml.eos_token_id", 0xffffffff), HasSubstr("no token id"));

  // Heads and head size that overflow when multiplied, by a key that some converters write.
  std::string file =
      patched(read_file(golden("phi2.gguf")), "phi2.rope.dimension_count", "phi2.attention.key_length");
  write_text(dir / "y.gguf", with_u32(file, "phi2.attention.key_length", 0x7fffffff));
  EXPECT_THAT(error_of([&] { open_checkpoint(dir / "y.gguf"); }), HasSubstr("more than 2^31"));
}

TEST(Gguf, RefusesOnePartOfSeveral) {
  const TemporaryDirectory dir;
  std::string file =
      patched(read_file(golden("phi2.gguf")), "phi2.rope.dimension_count", "split.count.............x");
  // A key of 11 letters must be written anew; take the file apart at the key.
  const size_t at = file.find("split.count");
  const uint64_t size = 11;
  std::memcpy(file.data() + at - sizeof size, &size, sizeof size);
  file.erase(at + size, std::string("phi2.rope.dimension_count").size() - size);
  write_text(dir / "x.gguf", file);
  EXPECT_THAT(error_of([&] { open_checkpoint(dir / "x.gguf"); }), HasSubstr("split GGUF"));
}

TEST(Gguf, TokenizerNeedsNoTensors) {
  const TemporaryDirectory dir;
  const std::string whole = read_file(golden("phi2.gguf"));
  write_text(dir / "x.gguf", whole.substr(0, whole.size() / 2));
  EXPECT_NE(error_of([&] { open_checkpoint(dir / "x.gguf"); }), "");
  EXPECT_EQ(load_tokenizer_json(dir / "x.gguf").at("model").at("type"), "BPE");
}

TEST(Gguf, SurvivesTruncation) {
  for (const char* name : {"llama.gguf", "qwen2.gguf", "phi2.gguf"}) {
    expect_truncations_refused(read_file(golden(name)), 256, 23, open_both);
  }
}

TEST(Gguf, SurvivesRandomBytes) {
  uint64_t seed = 1;
  for (const char* name : {"llama.gguf", "qwen2.gguf", "phi2.gguf"}) {
    // The metadata and tensor list take the first 3 to 5 KB.
    EXPECT_GT(open_with_random_bytes(read_file(golden(name)), 4096, 600, seed++, open_both), 100) << name;
  }
}

// Fetched models: shapes and types that the small files do not have.
TEST(Gguf, RealFiles) {
  const fs::path smol = testing::fetched_models_dir() / "SmolLM2-135M-Instruct.Q4_1.gguf";
  NIBBLE_NEEDS(smol);
  const Checkpoint c = open_checkpoint(smol);
  EXPECT_EQ(c.config.at("model_type"), "llama");
  EXPECT_EQ(c.config.at("num_key_value_heads"), 3);
  EXPECT_EQ(c.tensors.size(), 272u);
  EXPECT_EQ(c.tensors.at("model.embed_tokens.weight").shape, (std::vector<int64_t>{49152, 576}));
  EXPECT_EQ(c.tokenizer.at("pre_tokenizer").at("pretokenizers").at(0).at("type"), "Digits");
  EXPECT_EQ(c.tokenizer.at("added_tokens").size(), 17u);
  EXPECT_TRUE(c.tokenizer.at("post_processor").is_null());
}

}  // namespace
}  // namespace nibble
