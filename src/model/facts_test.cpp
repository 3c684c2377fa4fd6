#include "model/facts.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "test_data.h"

namespace nibble {
namespace {

TEST(ModelFacts, PartsAddUpToTheWeights) {
  for (const char* name : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const auto directory = testing::mini_dir() / "models" / name;
    const auto model = load_model(directory);
    const ModelFacts facts = model_facts(*model);
    EXPECT_EQ(facts.file_bytes, std::filesystem::file_size(directory / "model.safetensors"));
    EXPECT_EQ(facts.weight_bytes,
              facts.body_bytes + facts.embedding_bytes + facts.head_bytes + facts.other_bytes);
    const ModelConfig& c = model->config;
    EXPECT_EQ(facts.parameters, facts.body_parameters + facts.embedding_parameters + facts.head_parameters +
                                    facts.other_parameters);
    EXPECT_EQ(facts.body_bytes, 2 * facts.body_parameters);  // bf16
    EXPECT_EQ(facts.embedding_bytes,
              2u * static_cast<uint64_t>(c.vocab_size) * static_cast<uint64_t>(c.hidden_size));
    EXPECT_EQ(facts.head_bytes, c.tied_head ? 0 : facts.embedding_bytes);
    EXPECT_EQ(facts.formats,
              (std::map<std::string, int>{{"bf16", static_cast<int>(model->linears().size())}}));
    EXPECT_NEAR(facts.bits_per_weight, 16, 0.2);  // bf16, and the header
    EXPECT_TRUE(quantization_summary(*model).is_null());
  }
}

}  // namespace
}  // namespace nibble
