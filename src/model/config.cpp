#include "model/config.h"

#include <algorithm>
#include <array>

#include "model/arch/architectures.h"

namespace nibble {
namespace {

const std::array<const Architecture*, 3> kArchitectures = {&arch::kLlama, &arch::kQwen2, &arch::kPhi};

constexpr size_t kMostEndTokens = 1000;

// Both spellings: rope_theta + rope_scaling, and the newer rope_parameters.
void read_rope(const Json& config, std::string_view where, ModelConfig& out) {
  Json rope = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (config.contains(key) && config.at(key).is_object()) rope.update(config.at(key));
  }
  const float theta = json_get_or<float>(config, "rope_theta", 10000.0f, where);
  out.rope_theta = json_get_or<float>(rope, "rope_theta", theta, where);
  const auto read_share = [&](const Json& from) {
    if (!from.contains("partial_rotary_factor") || from.at("partial_rotary_factor").is_null()) return;
    const double share = json_get<double>(from, "partial_rotary_factor", where);
    if (!(share >= 0 && share <= 1)) fail("{}: partial_rotary_factor is {}", where, share);
    out.rope_dims = static_cast<int>(out.head_dim * share);
  };
  read_share(config);
  read_share(rope);
  std::string type = json_get_or<std::string>(rope, "type", "default", where);
  type = json_get_or<std::string>(rope, "rope_type", type, where);
  if (type == "default") return;
  if (type != "llama3")
    fail("{}: rope scaling '{}' is not supported; 'default' and 'llama3' are", where, type);
  RopeScaling scaling;
  scaling.factor = json_get<float>(rope, "factor", where);
  scaling.low_freq_factor = json_get<float>(rope, "low_freq_factor", where);
  scaling.high_freq_factor = json_get<float>(rope, "high_freq_factor", where);
  scaling.original_context = json_get<int>(rope, "original_max_position_embeddings", where);
  if (!(scaling.factor >= 1) || !(scaling.low_freq_factor > 0) ||
      !(scaling.high_freq_factor > scaling.low_freq_factor) || scaling.original_context < 1)
    fail("{}: the llama3 rope scaling factors make no sense", where);
  out.rope_scaling = scaling;
}

void read_end_tokens(const Json& json, std::string_view where, std::vector<int32_t>& out) {
  if (!json.is_object() || !json.contains("eos_token_id")) return;
  const Json& eos = json.at("eos_token_id");
  if (eos.is_null()) return;
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (!id.is_number_integer()) fail("{}: eos_token_id is not a number", where);
    if (out.size() >= kMostEndTokens) fail("{}: more than {} end tokens", where, kMostEndTokens);
    const int32_t value = id.get<int32_t>();
    if (std::find(out.begin(), out.end(), value) == out.end()) out.push_back(value);
  }
}

// The supported relative of a family that is not; "" for one of no known kin.
std::string_view nearest_supported(std::string_view model_type) {
  constexpr std::pair<std::string_view, std::string_view> kKin[] = {
      {"qwen", "qwen2"},    {"phi3", "llama"},      {"phi", "phi"},       {"llama", "llama"},
      {"mistral", "llama"}, {"gemma", "llama"},     {"smollm", "llama"},  {"olmo", "llama"},
      {"granite", "llama"}, {"stablelm", "llama"},  {"mixformer", "phi"}, {"internlm", "llama"},
      {"exaone", "llama"},  {"ministral", "llama"}, {"mllama", "llama"}};
  for (const auto& [start, kin] : kKin) {
    if (model_type.starts_with(start)) return kin;
  }
  return "";
}

}  // namespace

const Architecture& find_architecture(std::string_view model_type, std::string_view where) {
  std::string known;
  for (const Architecture* a : kArchitectures) {
    if (a->model_type == model_type) return *a;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", a->model_type);
  }
  const std::string_view nearest = nearest_supported(model_type);
  fail("{}: model_type '{}' is not supported; supported are {}{}", where, model_type, known,
       nearest.empty() ? "" : fmt::format("; the nearest is {}, but its blocks differ", nearest));
}

void ModelConfig::validate(std::string_view where) const {
  const auto in_range = [&](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) fail("{}: {} is {}, expected {} to {}", where, name, value, low, high);
  };
  in_range("num_hidden_layers", n_layers, 1, 1000);
  in_range("num_attention_heads", n_heads, 1, 1024);
  in_range("num_key_value_heads", n_kv_heads, 1, n_heads);
  in_range("head_dim", head_dim, 2, 1024);
  in_range("hidden_size", hidden_size, 1, 1 << 17);
  in_range("intermediate_size", intermediate_size, 1, 1 << 19);
  in_range("vocab_size", vocab_size, 1, 1 << 24);
  in_range("max_position_embeddings", max_context, 1, 1 << 24);
  in_range("rotary dimensions of a head", rope_dims, 0, head_dim);
  if (n_heads % n_kv_heads != 0)
    fail("{}: {} attention heads cannot share {} key/value heads evenly", where, n_heads, n_kv_heads);
  if (rope_dims % 2 != 0) fail("{}: {} rotary dimensions a head, expected an even number", where, rope_dims);
  if (!(norm_eps > 0) || !(norm_eps < 1)) fail("{}: the norm's epsilon is {}", where, norm_eps);
  if (!(rope_theta > 0)) fail("{}: rope_theta is {}", where, rope_theta);
}

ModelConfig read_config(const Json& config, const Json& generation_config, std::string_view where) {
  ModelConfig out;
  out.architecture = json_get<std::string>(config, "model_type", where);
  const Architecture& architecture = find_architecture(out.architecture, where);
  out.n_layers = json_get<int>(config, "num_hidden_layers", where);
  out.n_heads = json_get<int>(config, "num_attention_heads", where);
  out.n_kv_heads = json_get_or<int>(config, "num_key_value_heads", out.n_heads, where);
  out.hidden_size = json_get<int>(config, "hidden_size", where);
  out.intermediate_size = json_get<int>(config, "intermediate_size", where);
  out.vocab_size = json_get<int>(config, "vocab_size", where);
  out.max_context = json_get_or<int>(config, "max_position_embeddings", 2048, where);
  if (out.n_heads < 1) fail("{}: num_attention_heads is {}", where, out.n_heads);
  out.head_dim = json_get_or<int>(config, "head_dim", out.hidden_size / out.n_heads, where);
  out.tied_head = json_get_or<bool>(config, "tie_word_embeddings", false, where);
  out.rope_dims = out.head_dim;
  architecture.configure(config, where, out);
  read_rope(config, where, out);
  read_end_tokens(config, where, out.end_tokens);
  read_end_tokens(generation_config, where, out.end_tokens);
  out.validate(where);
  return out;
}

}  // namespace nibble
