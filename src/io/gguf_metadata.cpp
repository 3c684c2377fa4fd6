#include "io/gguf_metadata.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "base/error.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

std::string where(const GgufFile& gguf) { return gguf.file()->path().string(); }

// The key below the architecture's name: "llama.block_count".
std::string key(const GgufFile& gguf, std::string_view name) {
  return fmt::format("{}.{}", gguf.text("general.architecture"), name);
}

int64_t checked_count(const GgufFile& gguf, const std::string& name, int64_t value) {
  if (value < 1 || value > std::numeric_limits<int32_t>::max()) {
    fail("{}: metadata '{}' is {}, expected 1 to 2^31 - 1", where(gguf), name, value);
  }
  return value;
}

int64_t count(const GgufFile& gguf, std::string_view name) {
  return checked_count(gguf, key(gguf, name), gguf.integer(key(gguf, name)));
}

int64_t count_or(const GgufFile& gguf, std::string_view name, int64_t otherwise) {
  return gguf.has(key(gguf, name)) ? count(gguf, name) : otherwise;
}

// The token id under the key, when there is one.
std::optional<int64_t> token_id(const GgufFile& gguf, const std::string& name) {
  if (!gguf.has(name)) return std::nullopt;
  const int64_t id = gguf.integer(name);
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
    fail("{}: metadata '{}' is {}, which is no token id", where(gguf), name, id);
  }
  return id;
}

// Scaling by a formula. Llama 3's factors come as the tensor rope_freqs.weight instead.
Json rope_scaling(const GgufFile& gguf) {
  const std::string type = gguf.text_or(key(gguf, "rope.scaling.type"), "none");
  if (type == "none") return nullptr;
  Json scaling = {{"rope_type", type}, {"factor", gguf.number(key(gguf, "rope.scaling.factor"))}};
  if (gguf.has(key(gguf, "rope.scaling.original_context_length"))) {
    scaling["original_max_position_embeddings"] = count(gguf, "rope.scaling.original_context_length");
  }
  return scaling;
}

}  // namespace

GgufArchitecture gguf_architecture(const GgufFile& gguf) {
  const std::string name = gguf.text("general.architecture");
  if (name == "llama") return GgufArchitecture::kLlama;
  if (name == "qwen2") return GgufArchitecture::kQwen2;
  if (name == "phi2") return GgufArchitecture::kPhi2;
  fail("{}: architecture {} is not supported; llama, qwen2 and phi2 are", where(gguf), quote_name(name));
}

GgufHeads gguf_heads(const GgufFile& gguf) {
  GgufHeads heads;
  heads.n_heads = count(gguf, "attention.head_count");
  heads.n_kv_heads = count_or(gguf, "attention.head_count_kv", heads.n_heads);
  const int64_t hidden = count(gguf, "embedding_length");
  if (heads.n_heads % heads.n_kv_heads != 0) {
    fail("{}: {} attention heads cannot share {} key/value heads evenly", where(gguf), heads.n_heads,
         heads.n_kv_heads);
  }
  if (!gguf.has(key(gguf, "attention.key_length")) && hidden % heads.n_heads != 0) {
    fail("{}: {} hidden values do not divide into {} heads", where(gguf), hidden, heads.n_heads);
  }
  heads.head_dim = count_or(gguf, "attention.key_length", hidden / heads.n_heads);
  if (heads.n_heads * heads.head_dim > std::numeric_limits<int32_t>::max()) {
    fail("{}: {} heads of {} values are more than 2^31 - 1", where(gguf), heads.n_heads, heads.head_dim);
  }
  if (count_or(gguf, "attention.value_length", heads.head_dim) != heads.head_dim) {
    fail("{}: keys and values of different length are not supported", where(gguf));
  }
  return heads;
}

Json gguf_config(const GgufFile& gguf, int64_t vocab_size, bool tied, std::string_view torch_dtype) {
  const GgufHeads heads = gguf_heads(gguf);
  Json config = {{"hidden_size", count(gguf, "embedding_length")},
                 {"intermediate_size", count(gguf, "feed_forward_length")},
                 {"num_hidden_layers", count(gguf, "block_count")},
                 {"num_attention_heads", heads.n_heads},
                 {"num_key_value_heads", heads.n_kv_heads},
                 {"head_dim", heads.head_dim},
                 {"max_position_embeddings", count(gguf, "context_length")},
                 {"rope_theta", gguf.number_or(key(gguf, "rope.freq_base"), 10000.0)},
                 {"rope_scaling", rope_scaling(gguf)},
                 {"tie_word_embeddings", tied},
                 {"vocab_size", vocab_size},
                 {"torch_dtype", torch_dtype}};
  for (const char* which : {"bos", "eos"}) {
    const auto id = token_id(gguf, fmt::format("tokenizer.ggml.{}_token_id", which));
    config[fmt::format("{}_token_id", which)] = id ? Json(*id) : Json();
  }
  const int64_t rotary = count_or(gguf, "rope.dimension_count", heads.head_dim);
  if (rotary > heads.head_dim) {
    fail("{}: rope turns {} values of a head of {}", where(gguf), rotary, heads.head_dim);
  }
  const double fraction = static_cast<double>(rotary) / static_cast<double>(heads.head_dim);

  switch (gguf_architecture(gguf)) {
    case GgufArchitecture::kPhi2:
      config.update({{"architectures", {"PhiForCausalLM"}},
                     {"model_type", "phi"},
                     {"hidden_act", "gelu_new"},
                     {"qk_layernorm", false},
                     {"partial_rotary_factor", fraction},
                     {"layer_norm_eps", gguf.number(key(gguf, "attention.layer_norm_epsilon"))}});
      return config;
    case GgufArchitecture::kLlama:
      config.update({{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}});
      break;
    case GgufArchitecture::kQwen2:
      config.update({{"architectures", {"Qwen2ForCausalLM"}}, {"model_type", "qwen2"}});
      break;
  }
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = gguf.number(key(gguf, "attention.layer_norm_rms_epsilon"));
  if (rotary != heads.head_dim) config["partial_rotary_factor"] = fraction;
  return config;
}

Json gguf_generation_config(const GgufFile& gguf) {
  Json config = Json::object();
  if (const auto bos = token_id(gguf, "tokenizer.ggml.bos_token_id")) config["bos_token_id"] = *bos;
  // End of sequence, of a turn, of a message: each stops the model.
  std::vector<int64_t> ends;
  for (const char* which : {"eos", "eot", "eom"}) {
    const auto id = token_id(gguf, fmt::format("tokenizer.ggml.{}_token_id", which));
    if (id && std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
  }
  if (!ends.empty()) config["eos_token_id"] = ends;
  return config;
}

}  // namespace nibble
