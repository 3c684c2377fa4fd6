#include "io/foreign/foreign_config.h"

#include <algorithm>

#include "io/quote_name.h"

namespace nibble {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

}  // namespace

ForeignConfig::ForeignConfig(const Json& config, std::string where) : where_(std::move(where)) {
  const std::string method = json_get<std::string>(config, "quant_method", where_);
  if (method == "gptq") {
    read_gptq(config);
  } else if (method == "awq") {
    read_awq(config);
  } else if (method == "compressed-tensors") {
    read_compressed_tensors(config);
  } else {
    fail("{}: quantization {} is not read here; gptq, awq and compressed-tensors are, and nibble's own",
         where_, quote_name(method));
  }
}

const char* ForeignConfig::method_name() const {
  return method_ == ForeignMethod::kGptq  ? "gptq"
         : method_ == ForeignMethod::kAwq ? "awq"
                                          : "compressed-tensors";
}

// Bits and group size of an object; −1 is the whole row.
ForeignFormat ForeignConfig::read_format(const Json& object, const char* bits,
                                         const ForeignFormat& otherwise) const {
  if (!object.is_object())
    fail("{}: a JSON {} where bits and group size are expected", where_, object.type_name());
  ForeignFormat format;
  format.bits = json_get_or<int>(object, bits, otherwise.bits, where_);
  const int group = json_get_or<int>(object, "group_size", otherwise.group_size, where_);
  format.group_size = group == -1 ? 0 : group;
  if (!is_packed_bits(format.bits))
    fail("{}: {} bits: only 2, 3, 4, 6 and 8 are supported", where_, format.bits);
  if (format.group_size < 0 || format.group_size % 16 != 0)
    fail("{}: group size {}: a multiple of 16 is needed, or -1 for the whole row", where_, group);
  return format;
}

void ForeignConfig::read_gptq(const Json& config) {
  method_ = ForeignMethod::kGptq;
  base_ = read_format(config, "bits", {4, 128});
  const std::string form = json_get_or<std::string>(config, "checkpoint_format", "gptq", where_);
  if (form != "gptq" && form != "gptq_v2")
    fail("{}: checkpoint_format {} of GPTQ is not read here; gptq and gptq_v2 are", where_, quote_name(form));
  gptq_v2_ = form == "gptq_v2";
  const Json meta = json_get_or<Json>(config, "meta", Json::object(), where_);
  gptqmodel_ = lower(meta.dump()).find("gptqmodel") != std::string::npos;
  const Json dynamic = json_get_or<Json>(config, "dynamic", Json::object(), where_);
  if (!dynamic.is_object())
    fail("{}: 'dynamic' is a JSON {}, expected an object", where_, dynamic.type_name());
  for (const auto& [key, value] : dynamic.items()) {
    Rule rule;
    rule.excluded = key.starts_with("-:");
    const bool signed_key = rule.excluded || key.starts_with("+:");
    rule.pattern.emplace(std::string_view(key).substr(signed_key ? 2 : 0), where_);
    if (!rule.excluded) rule.format = read_format(value, "bits", base_);
    rules_.push_back(std::move(rule));
  }
}

void ForeignConfig::read_awq(const Json& config) {
  method_ = ForeignMethod::kAwq;
  const std::string version = lower(json_get_or<std::string>(config, "version", "gemm", where_));
  if (version != "gemm") fail("{}: AWQ's layout {} is not read here; gemm is", where_, quote_name(version));
  const char* bits = config.contains("w_bit") ? "w_bit" : "bits";
  base_ = read_format(config, bits, {4, 128});
  if (config.contains("q_group_size"))
    base_ = read_format({{"group_size", config.at("q_group_size")}}, bits, base_);
}

void ForeignConfig::read_compressed_tensors(const Json& config) {
  method_ = ForeignMethod::kCompressedTensors;
  const std::string whole = json_get_or<std::string>(config, "format", "pack-quantized", where_);
  const Json groups = json_get<Json>(config, "config_groups", where_);
  if (!groups.is_object() || groups.empty()) fail("{}: 'config_groups' names no group", where_);
  for (const auto& [name, group] : groups.items()) {
    if (!group.is_object()) fail("{}: config group {} is no object", where_, quote_name(name));
    const std::string form = json_get_or<std::string>(group, "format", whole, where_);
    if (form != "pack-quantized")
      fail("{}: compressed-tensors format {} is not read here; pack-quantized is", where_, quote_name(form));
    const Json weights = json_get<Json>(group, "weights", where_);
    if (json_get_or<std::string>(weights, "type", "int", where_) != "int")
      fail("{}: config group {} has weights that are no integers", where_, quote_name(name));
    const std::string strategy = json_get_or<std::string>(weights, "strategy", "group", where_);
    if (strategy != "group" && strategy != "channel")
      fail("{}: strategy {} is not read here; group and channel are", where_, quote_name(strategy));
    if (const Json inputs = json_get_or<Json>(group, "input_activations", Json(), where_); !inputs.is_null())
      fail("{}: config group {} quantizes activations, which is not supported", where_, quote_name(name));
    ForeignFormat format = read_format(weights, "num_bits", {4, 0});
    if (strategy == "channel") format.group_size = 0;
    if (rules_.empty()) base_ = format;
    const Json targets = json_get<Json>(group, "targets", where_);
    if (!targets.is_array()) fail("{}: the targets of {} are no list", where_, quote_name(name));
    for (const Json& target : targets) {
      if (!target.is_string()) fail("{}: a target of {} is no string", where_, quote_name(name));
      const std::string text = target.get<std::string>();
      Rule rule;
      rule.format = format;
      if (text.starts_with("re:")) {
        rule.pattern.emplace(std::string_view(text).substr(3), where_);
      } else {
        rule.name = text;
        rule.whole_class = text == "Linear";
      }
      rules_.push_back(std::move(rule));
    }
  }
}

ForeignFormat ForeignConfig::format(const std::string& linear) const {
  for (const Rule& rule : rules_) {
    if (rule.whole_class || !(rule.pattern ? rule.pattern->matches(linear) : rule.name == linear)) continue;
    if (rule.excluded)
      fail("{}: {} is excluded from quantization there, but is quantized in the file", where_,
           quote_name(linear));
    return rule.format;
  }
  for (const Rule& rule : rules_) {
    if (rule.whole_class) return rule.format;
  }
  if (method_ == ForeignMethod::kCompressedTensors)
    fail("{}: no config group has {} among its targets", where_, quote_name(linear));
  return base_;
}

}  // namespace nibble
