#include "convert/quantization_config.h"

#include <gmock/gmock.h>

#include <regex>

namespace nibble {
namespace {

// Linears of one block, packed or not.
struct MixedLinears {
  std::vector<Linear> all;
  std::vector<std::string> dense;

  void add(int layer, const char* part, int bits, int group_size) {
    const std::string name = fmt::format("model.layers.{}.{}", layer, part);
    if (bits == 16) return dense.push_back(name);
    PackedFormat format;
    format.bits = bits;
    format.group_size = group_size;
    format.symmetric = true;
    Linear linear;
    linear.name = name;
    linear.packed = PackedView{format};
    all.push_back(linear);
  }
  std::vector<const Linear*> packed() const {
    std::vector<const Linear*> pointers;
    for (const Linear& linear : all) pointers.push_back(&linear);
    return pointers;
  }
};

MixedLinears mixed_linears() {
  MixedLinears m;
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}) m.add(0, part, 8, 32);
  m.add(0, "mlp.gate_proj", 8, 64);
  m.add(0, "mlp.up_proj", 4, 64);
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}) m.add(1, part, 16, 0);
  for (const char* part : {"mlp.gate_proj", "mlp.up_proj"}) m.add(1, part, 2, 64);
  for (const char* part : {"self_attn.o_proj", "mlp.down_proj"}) m.add(1, part, 4, 64);
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj"}) m.add(2, part, 4, 64);
  m.add(2, "self_attn.v_proj", 16, 0);
  m.dense.push_back("lm_head");
  return m;
}

// The first rule that a name matches, as GPTQModel and vLLM (gptq_utils.py, get_dynamic_override) look it up.
std::string rule_for(const OrderedJson& config, const std::string& name) {
  for (const auto& [pattern, rule] : config.at("dynamic").items()) {
    if (std::regex_search(name, std::regex(pattern.substr(2)), std::regex_constants::match_continuous))
      return pattern.substr(0, 2) + rule.dump();
  }
  return "";
}

TEST(QuantizationConfig, RulesOfAMixtureReachTheJoinedLinearsOfOtherReaders) {
  const MixedLinears m = mixed_linears();
  const PackedFormat base = common_format(m.packed());
  EXPECT_EQ(base.bits, 4);
  EXPECT_EQ(base.group_size, 64);
  const OrderedJson config = gptq_config(m.packed(), m.dense, false, base);
  const std::string eight = R"(+:{"bits":8,"group_size":32,"sym":true})";
  EXPECT_EQ(rule_for(config, "model.layers.0.self_attn.k_proj"), eight);
  EXPECT_EQ(rule_for(config, "model.layers.0.self_attn.qkv_proj"), eight);
  EXPECT_EQ(rule_for(config, "model.layers.0.mlp.gate_proj"), R"(+:{"bits":8,"group_size":64,"sym":true})");
  EXPECT_EQ(rule_for(config, "model.layers.0.mlp.up_proj"), "");
  EXPECT_EQ(rule_for(config, "model.layers.0.mlp.gate_up_proj"), "");  // its parts differ
  EXPECT_EQ(rule_for(config, "model.layers.1.self_attn.v_proj"), "-:{}");
  EXPECT_EQ(rule_for(config, "model.layers.1.self_attn.qkv_proj"), "-:{}");
  EXPECT_EQ(rule_for(config, "model.layers.1.mlp.gate_up_proj"),
            R"(+:{"bits":2,"group_size":64,"sym":true})");
  EXPECT_EQ(rule_for(config, "model.layers.1.mlp.down_proj"), "");
  EXPECT_EQ(rule_for(config, "model.layers.2.self_attn.qkv_proj"), "");
  EXPECT_EQ(rule_for(config, "model.layers.2.self_attn.v_proj"), "-:{}");
  EXPECT_EQ(rule_for(config, "lm_head"), "");
  EXPECT_EQ(rule_for(config, "model.layers.10.self_attn.qkv_proj"), "");
}

TEST(QuantizationConfig, OneFormatNeedsNoRules) {
  MixedLinears m;
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}) m.add(0, part, 4, 64);
  const OrderedJson config = gptq_config(m.packed(), {"lm_head"}, true, common_format(m.packed()));
  EXPECT_FALSE(config.contains("dynamic"));
  EXPECT_EQ(config.at("checkpoint_format"), "gptq_v2");
}

// vLLM looks the parts of a joined linear up one by one and needs them in one group.
TEST(QuantizationConfig, GroupsOfCompressedTensorsNameEveryLinear) {
  const MixedLinears m = mixed_linears();
  const OrderedJson config = compressed_tensors_config(m.packed(), m.dense);
  EXPECT_EQ(config.at("ignore").size(), m.dense.size());
  size_t targets = 0;
  for (const auto& [name, group] : config.at("config_groups").items()) targets += group.at("targets").size();
  EXPECT_EQ(targets, m.all.size());
  EXPECT_EQ(config.at("config_groups").size(), 4u);
}

}  // namespace
}  // namespace nibble
