#include "convert/quantization_config.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

namespace nibble {
namespace {

int group_of(const PackedFormat& f) { return f.group_size == 0 ? -1 : f.group_size; }

std::string escaped(const std::string& name) {
  std::string out;
  for (const char c : name) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out;
}

// A rule of `dynamic` for each linear that is not as the base says. vLLM and SGLang join q, k, v and gate, up
// into one linear and look that one up: it has a rule where its parts have equal ones. Others have no such
// module.
OrderedJson dynamic_rules(const std::vector<const Linear*>& packed, const std::vector<std::string>& dense,
                          const PackedFormat& base) {
  std::map<std::string, std::pair<const char*, OrderedJson>>
      rules;  // "+:" with what differs, or "-:" for dense
  for (const std::string& name : dense) {
    if (name.starts_with("model.layers.")) rules[name] = {"-:", OrderedJson::object()};
  }
  for (const Linear* l : packed) {
    const PackedFormat& f = l->packed->format;
    if (f.bits != base.bits || f.group_size != base.group_size)
      rules[l->name] = {"+:", {{"bits", f.bits}, {"group_size", group_of(f)}, {"sym", f.symmetric}}};
  }
  struct Joined {
    std::string_view name;
    std::vector<std::string_view> parts;
  };
  const Joined joined[] = {{"qkv_proj", {"q_proj", "k_proj", "v_proj"}},
                           {"gate_up_proj", {"gate_proj", "up_proj"}}};
  OrderedJson dynamic = OrderedJson::object();
  const auto add = [&](const std::string& name, const auto& rule) {
    dynamic[rule.first + ("^" + escaped(name) + "$")] = rule.second;
  };
  for (const auto& entry : rules) {
    const auto& name = entry.first;
    const auto& rule = entry.second;
    add(name, rule);
    for (const Joined& whole : joined) {
      if (!name.ends_with("." + std::string(whole.parts.front()))) continue;
      const std::string parent = name.substr(0, name.size() - whole.parts.front().size());
      const bool equal = std::ranges::all_of(whole.parts, [&](std::string_view part) {
        const auto found = rules.find(parent + std::string(part));
        return found != rules.end() && std::string_view(found->second.first) == rule.first &&
               found->second.second == rule.second;
      });
      if (equal) add(parent + std::string(whole.name), rule);
    }
  }
  return dynamic;
}

}  // namespace

OrderedJson gptq_config(const std::vector<const Linear*>& packed, const std::vector<std::string>& dense,
                        bool v2, const PackedFormat& base) {
  OrderedJson config = {
      {"quant_method", "gptq"},
      {"bits", base.bits},
      {"group_size", group_of(base)},
      {"sym", base.symmetric},
      {"desc_act", std::any_of(packed.begin(), packed.end(), [](auto* l) { return l->order; })},
      {"lm_head", false},
      {"checkpoint_format", v2 ? "gptq_v2" : "gptq"},
      {"pack_dtype", "int32"}};
  const OrderedJson dynamic = dynamic_rules(packed, dense, base);
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  return config;
}

OrderedJson awq_config(const std::vector<std::string>& dense, const PackedFormat& base) {
  return {{"quant_method", "awq"}, {"bits", 4},         {"group_size", group_of(base)},
          {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", dense}};
}

OrderedJson compressed_tensors_config(const std::vector<const Linear*>& packed,
                                      const std::vector<std::string>& dense) {
  struct Key {
    int bits, group_size;
    bool symmetric, ordered;
    auto operator<=>(const Key&) const = default;
  };
  std::map<Key, std::vector<std::string>> groups;
  for (const Linear* l : packed) {
    const PackedFormat& f = l->packed->format;
    groups[{f.bits, f.group_size, f.symmetric, l->order != nullptr}].push_back(l->name);
  }
  OrderedJson config_groups = OrderedJson::object();
  for (const auto& [key, names] : groups) {
    OrderedJson weights = {{"num_bits", key.bits},
                           {"type", "int"},
                           {"symmetric", key.symmetric},
                           {"strategy", key.group_size == 0 ? "channel" : "group"},
                           {"group_size", key.group_size == 0 ? OrderedJson() : OrderedJson(key.group_size)},
                           {"actorder", key.ordered ? OrderedJson("group") : OrderedJson()},
                           {"block_structure", nullptr},
                           {"dynamic", false},
                           {"observer", "minmax"},
                           {"observer_kwargs", OrderedJson::object()}};
    // The class matches whatever is not ignored; only a mixture has to name its layers.
    const std::vector<std::string> targets = groups.size() == 1 ? std::vector<std::string>{"Linear"} : names;
    config_groups[fmt::format("group_{}", config_groups.size())] = {{"targets", targets},
                                                                    {"weights", weights},
                                                                    {"input_activations", nullptr},
                                                                    {"output_activations", nullptr},
                                                                    {"format", "pack-quantized"}};
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", config_groups},
          {"ignore", dense},
          {"kv_cache_scheme", nullptr}};
}

PackedFormat common_format(const std::vector<const Linear*>& packed) {
  std::map<std::pair<int, int>, int> counts;
  for (const Linear* l : packed) ++counts[{l->packed->format.bits, l->packed->format.group_size}];
  const auto most = std::max_element(counts.begin(), counts.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  PackedFormat format;
  std::tie(format.bits, format.group_size) = most->first;
  format.symmetric =
      std::all_of(packed.begin(), packed.end(), [](const Linear* l) { return l->packed->format.symmetric; });
  return format;
}

}  // namespace nibble
