// Small checkpoints as Hugging Face writes them, with made-up weights, and their logits computed plainly in
// double: for the tests of what is found in the wild.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/random.h"
#include "io/safetensors.h"

namespace nibble {

struct SmallModel {
  std::string type = "llama";
  int hidden = 64, layers = 2, heads = 4, kv_heads = 2, head_dim = 16, inner = 96, vocab = 80;
  double theta = 10000, rotary_fraction = 1;
  bool llama3_scaling = false, tied = false, all_biases = false;

  bool is_phi() const { return type == "phi"; }
  bool has_bias(const std::string& part) const {  // "q", "o", "mlp"
    return is_phi() || (all_biases && type == "llama") || (type == "qwen2" && part == "q");
  }
};

// Hugging Face's tensor names; a matrix [n, k] row by row. Every value is exact in bf16 and in fp16.
struct SmallTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using SmallWeights = std::map<std::string, SmallTensor>;

inline SmallWeights make_weights(const SmallModel& m, uint64_t seed = 1) {
  SmallWeights weights;
  Random random(seed);
  const auto fill = [&](const std::string& name, std::vector<int64_t> shape, float center, float step) {
    SmallTensor t{std::move(shape), {}};
    const int64_t count = std::accumulate(t.shape.begin(), t.shape.end(), int64_t{1}, std::multiplies<>());
    for (int64_t i = 0; i < count; ++i)
      t.values.push_back(center + step * (static_cast<float>(random.below(64)) - 32));
    weights[name] = std::move(t);
  };
  const auto linear = [&](const std::string& name, int64_t n, int64_t k, bool bias) {
    fill(name + ".weight", {n, k}, 0, 1.0f / 256);
    if (bias) fill(name + ".bias", {n}, 0, 1.0f / 64);
  };
  const auto norm = [&](const std::string& name) {
    fill(name + ".weight", {m.hidden}, 1.5f, 1.0f / 64);
    if (m.is_phi()) fill(name + ".bias", {m.hidden}, 0, 1.0f / 64);
  };
  fill("model.embed_tokens.weight", {m.vocab, m.hidden}, 0, 1.0f / 32);
  for (int i = 0; i < m.layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i);
    linear(p + "self_attn.q_proj", m.heads * m.head_dim, m.hidden, m.has_bias("q"));
    linear(p + "self_attn.k_proj", m.kv_heads * m.head_dim, m.hidden, m.has_bias("q"));
    linear(p + "self_attn.v_proj", m.kv_heads * m.head_dim, m.hidden, m.has_bias("q"));
    linear(p + (m.is_phi() ? "self_attn.dense" : "self_attn.o_proj"), m.hidden, m.heads * m.head_dim,
           m.has_bias("o"));
    if (!m.is_phi()) linear(p + "mlp.gate_proj", m.inner, m.hidden, m.has_bias("mlp"));
    linear(p + (m.is_phi() ? "mlp.fc1" : "mlp.up_proj"), m.inner, m.hidden, m.has_bias("mlp"));
    linear(p + (m.is_phi() ? "mlp.fc2" : "mlp.down_proj"), m.hidden, m.inner, m.has_bias("mlp"));
    norm(p + "input_layernorm");
    if (!m.is_phi()) norm(p + "post_attention_layernorm");
  }
  norm(m.is_phi() ? "model.final_layernorm" : "model.norm");
  linear("lm_head", m.vocab, m.hidden, m.is_phi());
  if (m.tied) weights["lm_head.weight"] = weights["model.embed_tokens.weight"];
  return weights;
}

// As transformers 4 spells it.
inline Json make_config(const SmallModel& m) {
  Json config = {{"model_type", m.type},
                 {"architectures", {m.is_phi() ? "PhiForCausalLM" : "LlamaForCausalLM"}},
                 {"hidden_size", m.hidden},
                 {"num_hidden_layers", m.layers},
                 {"num_attention_heads", m.heads},
                 {"num_key_value_heads", m.kv_heads},
                 {"intermediate_size", m.inner},
                 {"vocab_size", m.vocab},
                 {"max_position_embeddings", 2048},
                 {"rope_theta", m.theta},
                 {"rope_scaling", nullptr},
                 {"tie_word_embeddings", m.tied},
                 {"torch_dtype", "bfloat16"},
                 {m.is_phi() ? "layer_norm_eps" : "rms_norm_eps", 1e-5},
                 {"hidden_act", m.is_phi() ? "gelu_new" : "silu"}};
  if (m.head_dim * m.heads != m.hidden) config["head_dim"] = m.head_dim;
  if (m.is_phi()) config["partial_rotary_factor"] = m.rotary_fraction;
  if (m.all_biases) config["attention_bias"] = config["mlp_bias"] = true;
  if (m.llama3_scaling)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 4.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 64}};
  return config;
}

inline void write_weights(const std::filesystem::path& path, const SmallWeights& weights, DType dtype) {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const auto& [name, tensor] : weights) {
    std::vector<std::byte>& out = bytes.emplace_back(tensor.values.size() * dtype_size(dtype));
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      const float value = tensor.values[i];
      const uint16_t half = dtype == DType::kF16 ? float_to_fp16(value) : float_to_bf16(value);
      if (dtype == DType::kF32)
        std::memcpy(out.data() + 4 * i, &value, 4);
      else
        std::memcpy(out.data() + 2 * i, &half, 2);
    }
    tensors.push_back({name, {dtype, tensor.shape, nullptr}});
  }
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].second.data = bytes[i].data();
  write_safetensors(path, tensors);
}

// The logits after every token, [tokens, vocab].
inline std::vector<double> plain_logits(const SmallModel& m, const SmallWeights& w, const Json& config,
                                        const std::vector<int32_t>& tokens) {
  using Vector = std::vector<double>;
  const auto linear = [&](const std::string& name, const Vector& x) {
    const SmallTensor& t = w.at(name + ".weight");
    Vector y(static_cast<size_t>(t.shape[0]));
    for (size_t i = 0; i < y.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) y[i] += double{t.values[i * x.size() + j]} * x[j];
      if (const auto bias = w.find(name + ".bias"); bias != w.end()) y[i] += double{bias->second.values[i]};
    }
    return y;
  };
  const auto norm = [&](const std::string& name, const Vector& x) {
    const double n = static_cast<double>(x.size());
    const double mean = m.is_phi() ? std::accumulate(x.begin(), x.end(), 0.0) / n : 0;
    double square = 0;
    for (const double v : x) square += (v - mean) * (v - mean);
    Vector y;
    for (size_t i = 0; i < x.size(); ++i) {
      y.push_back((x[i] - mean) / std::sqrt(square / n + 1e-5) * double{w.at(name + ".weight").values[i]});
      if (m.is_phi()) y[i] += double{w.at(name + ".bias").values[i]};
    }
    return y;
  };
  const int rotary = static_cast<int>(m.head_dim * m.rotary_fraction);
  const auto rotate = [&](Vector& x, size_t position) {  // the first `rotary` of each head, in two halves
    for (size_t head = 0; head < x.size(); head += static_cast<size_t>(m.head_dim)) {
      for (int i = 0; i < rotary / 2; ++i) {
        double f = std::pow(m.theta, -2.0 * i / rotary);
        if (m.llama3_scaling) {
          const Json& s =
              config.contains("rope_parameters") ? config["rope_parameters"] : config["rope_scaling"];
          const double waves = s["original_max_position_embeddings"].get<double>() * f / (2 * M_PI);
          const double low = s["low_freq_factor"], high = s["high_freq_factor"];
          const double kept = std::clamp((waves - low) / (high - low), 0.0, 1.0);
          f *= kept + (1 - kept) / s["factor"].get<double>();
        }
        const double angle = static_cast<double>(position) * f, c = std::cos(angle), n = std::sin(angle);
        double &a = x[head + static_cast<size_t>(i)], &b = x[head + static_cast<size_t>(i + rotary / 2)];
        std::tie(a, b) = std::pair(a * c - b * n, b * c + a * n);
      }
    }
  };
  const auto add = [](Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  };
  const size_t d = static_cast<size_t>(m.head_dim), group = static_cast<size_t>(m.heads / m.kv_heads);
  std::vector<std::vector<Vector>> keys(static_cast<size_t>(m.layers)), values(keys.size());
  std::vector<double> logits;
  for (size_t position = 0; position < tokens.size(); ++position) {
    const auto& table = w.at("model.embed_tokens.weight").values;
    const auto row = table.begin() + tokens[position] * m.hidden;
    Vector h(row, row + m.hidden);
    for (size_t layer = 0; layer < keys.size(); ++layer) {
      const std::string p = fmt::format("model.layers.{}.", layer);
      const Vector x = norm(p + "input_layernorm", h);
      Vector q = linear(p + "self_attn.q_proj", x), k = linear(p + "self_attn.k_proj", x);
      rotate(q, position);
      rotate(k, position);
      keys[layer].push_back(k);
      values[layer].push_back(linear(p + "self_attn.v_proj", x));
      Vector attended(q.size());
      for (size_t head = 0; head < static_cast<size_t>(m.heads); ++head) {
        Vector scores;
        double sum = 0;
        for (const Vector& key : keys[layer]) {
          double dot = 0;
          for (size_t i = 0; i < d; ++i) dot += q[head * d + i] * key[head / group * d + i];
          sum += scores.emplace_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
        }
        for (size_t t = 0; t < scores.size(); ++t) {
          for (size_t i = 0; i < d; ++i)
            attended[head * d + i] += scores[t] / sum * values[layer][t][head / group * d + i];
        }
      }
      if (m.is_phi()) {
        Vector inner = linear(p + "mlp.fc1", x);
        for (double& v : inner)
          v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        add(h, linear(p + "self_attn.dense", attended));
        add(h, linear(p + "mlp.fc2", inner));
        continue;
      }
      add(h, linear(p + "self_attn.o_proj", attended));
      const Vector y = norm(p + "post_attention_layernorm", h);
      Vector inner = linear(p + "mlp.gate_proj", y);
      const Vector up = linear(p + "mlp.up_proj", y);
      for (size_t i = 0; i < inner.size(); ++i) inner[i] *= up[i] / (1 + std::exp(-inner[i]));
      add(h, linear(p + "mlp.down_proj", inner));
    }
    const Vector last = linear("lm_head", norm(m.is_phi() ? "model.final_layernorm" : "model.norm", h));
    logits.insert(logits.end(), last.begin(), last.end());
  }
  return logits;
}

}  // namespace nibble
