// GGUF out of a model: packed weights as Q4_0, Q4_1 or Q8_0 where one of them says every value exactly.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "convert/exports.h"
#include "convert/gguf_vocabulary.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "model/rope.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlock = 32;  // values that share a scale in Q4_0, Q4_1 and Q8_0

// The least and greatest of q − z over a weight.
std::pair<int, int> value_range(const PackedView& w) {
  const PackedFormat& f = w.format;
  std::vector<uint8_t> codes(static_cast<size_t>(f.k));
  int least = 0, greatest = 0;
  for (int64_t row = 0; row < f.n; ++row) {
    unpack_row(w, row, codes.data());
    for (int64_t g = 0; g < f.groups(); ++g) {
      const auto begin = codes.begin() + g * f.group(),
                 end = codes.begin() + std::min(f.k, (g + 1) * f.group());
      const auto [low, high] = std::minmax_element(begin, end);
      const int zero = packed_zero(w, row, g);
      least = std::min(least, int{*low} - zero);
      greatest = std::max(greatest, int{*high} - zero);
    }
  }
  return {least, greatest};
}

// Whether every −scale·zero, Q4_1's minimum, is exactly an fp16.
bool minima_are_exact(const PackedView& w) {
  for (int64_t row = 0; row < w.format.n; ++row) {
    for (int64_t g = 0; g < w.format.groups(); ++g) {
      const float minimum = -packed_scale(w, row, g) * static_cast<float>(packed_zero(w, row, g));
      if (fp16_to_float(float_to_fp16(minimum)) != minimum) return false;
    }
  }
  return true;
}

struct Choice {
  std::optional<GgmlType> type;
  std::string reason;  // why there is none, with what helps
};

Choice choose(const Linear& linear) {
  const PackedView& w = *linear.packed;
  const PackedFormat& f = w.format;
  if (linear.order)
    return {{},
            "its groups are not contiguous (act-order), GGUF has no order of inputs; --to gptq or "
            "compressed-tensors can"};
  if (f.scale_type == ScaleType::kF32)
    return {{}, "scales that fp16 cannot hold; --to compressed-tensors can"};
  if (f.k % kBlock != 0)
    return {{},
            fmt::format(
                "{} inputs, not a multiple of GGUF's blocks of 32; leave this layer at 16 bits by a rule of "
                "--plan",
                f.k)};
  if (f.group() < f.k && f.group() % kBlock != 0)
    return {
        {},
        fmt::format(
            "groups of {}, GGUF's blocks share a scale by 32; quantize with --group-size 32 or a multiple",
            f.group())};
  if (f.bits <= 4) {
    const auto [least, greatest] = value_range(w);
    if (least >= -8 && greatest <= 7) return {GgmlType::kQ4_0, ""};
    if (minima_are_exact(w)) return {GgmlType::kQ4_1, ""};
    if (least >= -128 && greatest <= 127) return {GgmlType::kQ8_0, ""};
  } else {
    const auto [least, greatest] = value_range(w);
    if (least >= -128 && greatest <= 127) return {GgmlType::kQ8_0, ""};
  }
  return {{}, "integers that neither Q4_0, Q4_1 nor Q8_0 can hold; quantize with --symmetric"};
}

// One row of blocks.
void encode_row(const PackedView& w, int64_t row, GgmlType type, std::vector<uint8_t>& codes,
                std::string& out) {
  const PackedFormat& f = w.format;
  unpack_row(w, row, codes.data());
  out.clear();
  const auto put16 = [&](uint16_t value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (int64_t begin = 0; begin < f.k; begin += kBlock) {
    const int64_t g = begin / f.group();
    const float scale = packed_scale(w, row, g);
    const int zero = packed_zero(w, row, g);
    const uint8_t* q = codes.data() + begin;
    put16(float_to_fp16(scale));
    if (type == GgmlType::kQ8_0) {
      for (int i = 0; i < kBlock; ++i) out.push_back(static_cast<char>(static_cast<int8_t>(q[i] - zero)));
      continue;
    }
    if (type == GgmlType::kQ4_1) put16(float_to_fp16(-scale * static_cast<float>(zero)));
    const int shift = type == GgmlType::kQ4_0 ? 8 - zero : 0;
    for (int i = 0; i < kBlock / 2; ++i)
      out.push_back(static_cast<char>((q[i] + shift) | (q[i + kBlock / 2] + shift) << 4));
  }
}

// llama.cpp keeps the two values of a rotary pair beside each other in Llama's q and k: row 2i + j of a head
// is row j · head_dim/2 + i of Hugging Face's.
int64_t source_row(int64_t row, int64_t head_dim) {
  if (head_dim == 0) return row;
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

// The frequencies' divisors that Llama 3's scaling means (transformers, _compute_llama3_parameters).
std::vector<float> rope_factors(const ModelConfig& c) {
  std::vector<float> factors;
  for (int i = 0; i < c.rope_dims / 2; ++i) {
    const double frequency = rope_frequency(c, i);
    factors.push_back(static_cast<float>(frequency / stretched(frequency, *c.rope_scaling)));
  }
  return factors;
}

class Exporter {
 public:
  Exporter(const Model& model, bool dequantize)
      : model_(model), config_(model.config), dequantize_(dequantize) {
    const std::string_view type = model.architecture().model_type;
    architecture_ = type == "llama"   ? GgufArchitecture::kLlama
                    : type == "qwen2" ? GgufArchitecture::kQwen2
                                      : GgufArchitecture::kPhi2;
    prefix_ = type == "phi" ? "phi2" : std::string(type);
  }

  ConvertReport run(const fs::path& out) {
    add_metadata();
    add_tokenizer();
    if (config_.rope_scaling) add_floats("rope_freqs.weight", rope_factors(config_));
    if (!model_.rope_factors.empty()) add_floats("rope_freqs.weight", model_.rope_factors);
    for (const Linear* l : all_weights(model_)) {
      if (l->packed) add_packed(*l);
    }
    for (const auto& [name, view] : model_.checkpoint().tensors) add_dense(name, view);
    report_.file_bytes = writer_.write(out);
    return report_;
  }

 private:
  std::string key(const char* name) const { return fmt::format("{}.{}", prefix_, name); }

  void add_metadata() {
    writer_.add_text("general.architecture", prefix_);
    writer_.add_text("general.name", model_.checkpoint().path.lexically_normal().filename().string());
    writer_.add_count("general.quantization_version", 2);
    writer_.add_count(key("block_count"), config_.n_layers);
    writer_.add_count(key("context_length"), config_.max_context);
    writer_.add_count(key("embedding_length"), config_.hidden_size);
    writer_.add_count(key("feed_forward_length"), config_.intermediate_size);
    writer_.add_count(key("attention.head_count"), config_.n_heads);
    writer_.add_count(key("attention.head_count_kv"), config_.n_kv_heads);
    writer_.add_count(key("attention.key_length"), config_.head_dim);
    writer_.add_count(key("attention.value_length"), config_.head_dim);
    writer_.add_count(key("rope.dimension_count"), config_.rope_dims);
    writer_.add_number(key("rope.freq_base"), config_.rope_theta);
    writer_.add_count(key("vocab_size"), config_.vocab_size);
    writer_.add_number(key(config_.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                          : "attention.layer_norm_epsilon"),
                       config_.norm_eps);
  }

  void add_tokenizer() {
    const Json& tokenizer = model_.checkpoint().tokenizer;
    const std::string where = model_.name();
    if (tokenizer.is_null())
      fail("{}: there is no tokenizer.json to go into the GGUF; copy it beside config.json", where);
    add_gguf_vocabulary(writer_, tokenizer, static_cast<size_t>(config_.vocab_size), where);

    const int32_t start = model_.load_tokenizer().start_token();
    writer_.add_flag("tokenizer.ggml.add_bos_token", start >= 0);
    if (start >= 0) {
      writer_.add_count("tokenizer.ggml.bos_token_id", start);
    } else if (const Json bos = json_get_or<Json>(model_.checkpoint().config, "bos_token_id", Json(), where);
               bos.is_number_integer()) {
      writer_.add_count("tokenizer.ggml.bos_token_id", bos.get<int64_t>());
    }
    constexpr const char* kEnds[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < std::min(std::size(kEnds), config_.end_tokens.size()); ++i)
      writer_.add_count(kEnds[i], config_.end_tokens[i]);
    add_chat_template();
  }

  void add_chat_template() {
    const fs::path folder = model_.checkpoint().path;
    if (!fs::exists(folder / "tokenizer_config.json")) return;
    const Json config = read_json_file(folder / "tokenizer_config.json");
    if (config.contains("chat_template") && config.at("chat_template").is_string())
      writer_.add_text("tokenizer.chat_template", config.at("chat_template").get<std::string>());
  }

  // Rows of a head that are put in llama.cpp's order; 0: none.
  int64_t interleaved(const std::string& name) const {
    const bool rotary =
        name.find(".q_proj") != std::string::npos || name.find(".k_proj") != std::string::npos;
    return architecture_ == GgufArchitecture::kLlama && rotary ? config_.head_dim : 0;
  }

  void add_packed(const Linear& l) {
    const Choice choice = choose(l);
    const std::string to = gguf_tensor_name(architecture_, l.name + ".weight");
    NIBBLE_CHECK(!to.empty());
    const int64_t head = interleaved(l.name);
    if (!choice.type) {
      if (!dequantize_)
        fail("gguf cannot say {}: {}; or --dequantize to write it as F16", l.name, choice.reason);
      writer_.add_tensor(to, GgmlType::kF16, {l.n, l.k}, [&l, head](const ByteSink& sink) {
        write_dequantized(
            l, [head](int64_t r) { return source_row(r, head); }, sink);
      });
      report_.dequantized.push_back(l.name);
      ++report_.types["F16, dequantized"];
      return;
    }
    const GgmlType type = *choice.type;
    ++report_.types[std::string(ggml_type_info(type).name)];
    writer_.add_tensor(to, type, {l.n, l.k}, [this, &l, type, head](const ByteSink& sink) {
      std::vector<uint8_t> codes(static_cast<size_t>(l.k));
      std::string row;
      for (int64_t r = 0; r < l.n; ++r) {
        encode_row(*l.packed, source_row(r, head), type, codes, row);
        sink(row.data(), row.size());
      }
      release_codes(model_, *l.packed);
    });
  }

  void add_dense(const std::string& name, const TensorView& view) {
    if (name == "rope_freqs.weight" || !(name.ends_with(".weight") || name.ends_with(".bias"))) return;
    if (config_.tied_head && name == std::string(model_.architecture().names.head) + ".weight") return;
    const std::string to = gguf_tensor_name(architecture_, name);
    if (to.empty()) return;  // what the model does not read either
    const int64_t head = interleaved(name);
    if (view.shape.size() == 1) {  // GGUF has vectors in float32
      const std::vector<float> values = to_float(view);
      std::vector<float> ordered(values.size());
      for (size_t r = 0; r < values.size(); ++r)
        ordered[r] = values[static_cast<size_t>(source_row(static_cast<int64_t>(r), head))];
      return add_floats(to, std::move(ordered));
    }
    const GgmlType type = view.dtype == DType::kF32   ? GgmlType::kF32
                          : view.dtype == DType::kF16 ? GgmlType::kF16
                                                      : GgmlType::kBF16;
    ++report_.types[std::string(ggml_type_info(type).name)];
    writer_.add_tensor(to, type, view.shape, [&view, head](const ByteSink& sink) {
      const size_t row_bytes = view.bytes() / static_cast<size_t>(view.shape[0]);
      if (head == 0) return sink(view.data, view.bytes());
      for (int64_t r = 0; r < view.shape[0]; ++r)
        sink(view.data + static_cast<size_t>(source_row(r, head)) * row_bytes, row_bytes);
    });
  }

  void add_floats(const std::string& name, std::vector<float> values) {
    const auto kept = std::make_shared<std::vector<float>>(std::move(values));
    writer_.add_tensor(name, GgmlType::kF32, {static_cast<int64_t>(kept->size())},
                       [kept](const ByteSink& sink) { sink(kept->data(), kept->size() * sizeof(float)); });
  }

  const Model& model_;
  const ModelConfig& config_;
  bool dequantize_;
  GgufArchitecture architecture_;
  std::string prefix_;
  GgufWriter writer_;
  ConvertReport report_;
};

}  // namespace

ConvertReport export_gguf(const Model& model, const ConvertOptions& options, const fs::path& out) {
  return Exporter(model, options.dequantize).run(out);
}

}  // namespace nibble
