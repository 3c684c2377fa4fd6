#include "model/facts.h"

#include <algorithm>

namespace nibble {
namespace {

std::string dtype_text(DType dtype) {
  std::string text(dtype_name(dtype));
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

const Json* quantization_config(const Model& model) {
  const Json& config = model.checkpoint().config;
  const auto found = config.find("quantization_config");
  return found == config.end() ? nullptr : &*found;
}

// The method that made a packed linear, by the configuration; empty when it does not say.
std::string method_of(const Model& model, const std::string& linear) {
  const Json* quantization = quantization_config(model);
  if (!quantization) return "";
  const std::string where = model.name() + "/config.json";
  const std::string whole = json_get_or<std::string>(*quantization, "method", "", where);
  const auto linears = quantization->find("linears");
  if (linears == quantization->end() || !linears->contains(linear)) return whole;
  return json_get_or<std::string>(linears->at(linear), "method", whole, where);
}

std::string format_text(const Model& model, const Linear& linear) {
  if (!linear.packed) return dtype_text(linear.dense.dtype);
  const PackedFormat& f = linear.packed->format;
  const std::string method = method_of(model, linear.name);
  return fmt::format("{}{}{}-bit {}{}{}", method, method.empty() ? "" : " ", f.bits,
                     f.group_size == 0 ? "row" : fmt::format("g{}", f.group_size),
                     f.symmetric ? " symmetric" : "",
                     f.scale_type == ScaleType::kByte ? " with 8-bit scales" : "");
}

}  // namespace

ModelFacts model_facts(const Model& model) {
  ModelFacts facts;
  facts.architecture = model.architecture().title;
  facts.format = model.checkpoint().format;
  facts.parameters = model.parameters();
  facts.file_bytes = model.checkpoint().file_bytes;
  facts.bits_per_weight = 8.0 * static_cast<double>(facts.file_bytes) / static_cast<double>(facts.parameters);
  facts.weight_bytes = model.weight_bytes();
  for (const Linear* linear : model.linears()) {
    facts.body_bytes += linear->weight_bytes();
    facts.body_parameters += static_cast<uint64_t>(linear->n * linear->k);
    ++facts.formats[format_text(model, *linear)];
  }
  facts.embedding_bytes = model.embedding.weight_bytes();
  facts.embedding_parameters = static_cast<uint64_t>(model.embedding.n * model.embedding.k);
  facts.embedding_format = format_text(model, model.embedding);
  facts.head_bytes = model.config.tied_head ? 0 : model.head.weight_bytes();
  facts.head_parameters = model.config.tied_head ? 0 : static_cast<uint64_t>(model.head.n * model.head.k);
  facts.head_format = model.config.tied_head ? "the embedding's (tied)" : format_text(model, model.head);
  facts.other_bytes = facts.weight_bytes - facts.body_bytes - facts.embedding_bytes - facts.head_bytes;
  facts.other_parameters =
      facts.parameters - facts.body_parameters - facts.embedding_parameters - facts.head_parameters;
  for (const auto& [name, type] : model.checkpoint().source_types) ++facts.source_types[type];
  return facts;
}

OrderedJson parts_json(const ModelFacts& f) {
  return {{"body", {{"parameters", f.body_parameters}, {"bytes", f.body_bytes}}},
          {"embedding", {{"parameters", f.embedding_parameters}, {"bytes", f.embedding_bytes}}},
          {"head", {{"parameters", f.head_parameters}, {"bytes", f.head_bytes}}},
          {"other", {{"parameters", f.other_parameters}, {"bytes", f.other_bytes}}}};
}

OrderedJson quantization_summary(const Model& model) {
  std::map<std::string, std::pair<int, const Linear*>> counts;
  for (const Linear* linear : model.linears()) {
    if (!linear->packed) continue;
    auto& [count, example] = counts[format_text(model, *linear)];
    ++count;
    example = linear;
  }
  if (counts.empty()) return nullptr;
  const auto& common = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
                         return a.second.first < b.second.first;
                       })->second;
  const Linear& linear = *common.second;
  OrderedJson summary;
  summary["method"] = method_of(model, linear.name);
  summary["bits"] = linear.packed->format.bits;
  summary["group_size"] = linear.packed->format.group_size;
  summary["bits_per_weight"] = model_facts(model).bits_per_weight;
  return summary;
}

OrderedJson to_json(const ModelFacts& facts, const Model& model, const std::string& sha256) {
  const ModelConfig& c = model.config;
  OrderedJson json;
  json["model"] = model.name();
  json["architecture"] = facts.architecture;
  json["format"] = facts.format;
  json["parameters"] = facts.parameters;
  json["file_bytes"] = facts.file_bytes;
  json["bits_per_weight"] = facts.bits_per_weight;
  json["sha256"] = sha256;
  json["shapes"] = {{"n_layers", c.n_layers},
                    {"hidden_size", c.hidden_size},
                    {"intermediate_size", c.intermediate_size},
                    {"n_heads", c.n_heads},
                    {"n_kv_heads", c.n_kv_heads},
                    {"head_dim", c.head_dim},
                    {"vocab_size", c.vocab_size},
                    {"max_context", c.max_context},
                    {"tied_head", c.tied_head}};
  json["weight_bytes"] = {{"body", facts.body_bytes},
                          {"embedding", facts.embedding_bytes},
                          {"head", facts.head_bytes},
                          {"other", facts.other_bytes},
                          {"total", facts.weight_bytes}};
  json["parts"] = parts_json(facts);
  json["formats"] = {
      {"body", facts.formats}, {"embedding", facts.embedding_format}, {"head", facts.head_format}};
  if (!facts.source_types.empty()) json["formats"]["in_file"] = facts.source_types;
  json["quantization"] = quantization_summary(model);
  return json;
}

}  // namespace nibble
