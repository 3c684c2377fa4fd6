#include "model/model.h"

#include <algorithm>

#include "base/memory_usage.h"
#include "io/foreign/repack.h"
#include "kernels/dense_rows.h"

namespace nibble {
namespace {

const TensorView& find_tensor(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.tensors.find(name);
  if (found == checkpoint.tensors.end()) fail("{}: tensor '{}' is missing", checkpoint.path.string(), name);
  return found->second;
}

const TensorView& expect_shape(const Checkpoint& checkpoint, const std::string& name,
                               const std::vector<int64_t>& shape) {
  const TensorView& view = find_tensor(checkpoint, name);
  if (view.shape != shape)
    fail("{}: tensor '{}' has shape {}, config.json asks for {}", checkpoint.path.string(), name,
         shape_string(view.shape), shape_string(shape));
  return view;
}

const uint8_t* expect_bytes(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                            int64_t elements) {
  const TensorView& view = find_tensor(checkpoint, name);
  if (view.dtype != dtype || view.elements() != elements)
    fail("{}: tensor '{}' is {} {}, expected {} with {} elements", checkpoint.path.string(), name,
         dtype_name(view.dtype), shape_string(view.shape), dtype_name(dtype), elements);
  return reinterpret_cast<const uint8_t*>(view.data);
}

struct PackedEntry {
  PackedFormat format;
  bool ordered = false;
};

// What quantization_config says of this linear, if it is packed.
std::optional<PackedEntry> packed_entry_of(const Checkpoint& checkpoint, const std::string& name, int64_t n,
                                           int64_t k) {
  if (!checkpoint.config.contains("quantization_config")) return std::nullopt;
  const Json& quantization = checkpoint.config.at("quantization_config");
  const std::string where = checkpoint.path.string() + "/config.json";
  const std::string method = json_get<std::string>(quantization, "quant_method", where);
  NIBBLE_CHECK(method == "nibble");  // open_checkpoint repacks or refuses every other
  const int version = json_get<int>(quantization, "layout_version", where);
  if (version < 1 || version > kLayoutVersion)
    fail("{}: packed layout version {}, this program reads 1 to {}; quantize the model again", where, version,
         kLayoutVersion);
  if (!quantization.contains("linears")) fail("{}: 'linears' is missing", where);
  const Json& linears = quantization.at("linears");  // not copied: asked for every linear
  if (!linears.is_object() || !linears.contains(name)) return std::nullopt;
  const Json& entry = linears.at(name);
  PackedEntry result;
  result.format = packed_format(entry, n, k, where);
  result.ordered = json_get_or<bool>(entry, "ordered", false, where);
  return result;
}

}  // namespace

size_t Linear::weight_bytes() const {
  if (packed) return static_cast<size_t>(packed->format.bytes());
  return static_cast<size_t>(n * k) * dtype_size(dense.dtype);
}

void Linear::row(int64_t index, float* out, const KernelTable& table) const {
  if (packed) {
    dequantize_row(*packed, index, out);
  } else {
    dense_rows(dense, index, 1, out, table);
  }
}

Norm Model::read_norm(const std::string& prefix) const {
  Norm norm;
  norm.weight = to_float(expect_shape(checkpoint_, prefix + ".weight", {config.hidden_size}));
  if (config.norm == NormKind::kLayer)
    norm.bias = to_float(expect_shape(checkpoint_, prefix + ".bias", {config.hidden_size}));
  return norm;
}

const int32_t* Model::read_order(const std::string& linear, int64_t k) {
  const int32_t* order =
      reinterpret_cast<const int32_t*>(expect_bytes(checkpoint_, linear + ".order", DType::kI32, k));
  std::vector<bool> seen(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) {
    if (order[j] < 0 || order[j] >= k || seen[static_cast<size_t>(order[j])])
      fail("{}: tensor '{}.order' does not name each of {} inputs once", name_, linear, k);
    seen[static_cast<size_t>(order[j])] = true;
  }
  for (size_t i = 0; i < orders_.size(); ++i) {
    if (order_sizes_[i] == k && std::equal(order, order + k, orders_[i])) return orders_[i];
  }
  orders_.push_back(order);
  order_sizes_.push_back(k);
  return order;
}

Linear Model::read_linear(const std::string& prefix, int64_t n, int64_t k, bool has_bias) {
  Linear linear;
  linear.name = prefix;
  linear.n = n;
  linear.k = k;
  if (const auto entry = packed_entry_of(checkpoint_, prefix, n, k)) {
    const PackedFormat& format = entry->format;
    PackedView view{.format = format};
    view.codes = expect_bytes(checkpoint_, prefix + ".codes", DType::kU8, format.code_bytes());
    view.scales =
        expect_bytes(checkpoint_, prefix + ".scales", scale_dtype(format.scale_type), format.scale_count());
    if (!format.symmetric)
      view.zeros = expect_bytes(checkpoint_, prefix + ".zeros", DType::kU8, format.zero_bytes());
    linear.packed = view;
    if (entry->ordered) linear.order = read_order(prefix, k);
  } else {
    const TensorView& view = expect_shape(checkpoint_, prefix + ".weight", {n, k});
    if (view.dtype != DType::kF32 && view.dtype != DType::kBF16 && view.dtype != DType::kF16)
      fail("{}: tensor '{}.weight' is {}; F32, BF16 and F16 are supported", checkpoint_.path.string(), prefix,
           dtype_name(view.dtype));
    linear.dense = {view.dtype, view.data, n, k};
  }
  if (has_bias) linear.bias = to_float(expect_shape(checkpoint_, prefix + ".bias", {n}));
  return linear;
}

Model::Model(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)), name_(checkpoint_.path.string()) {
  config = read_config(checkpoint_.config, checkpoint_.generation_config, name_);
  architecture_ = &find_architecture(config.architecture, name_);
  const TensorNames& names = architecture_->names;
  embedding = read_linear(names.embedding, config.vocab_size, config.hidden_size, false);
  if (embedding.order) fail("{}: the embedding cannot have an order of its columns", name_);
  const std::string head_name = names.head;
  const bool has_head = checkpoint_.tensors.contains(head_name + ".weight") ||
                        checkpoint_.tensors.contains(head_name + ".codes");
  if (config.tied_head || !has_head) {
    if (!config.tied_head) fail("{}: tensor '{}.weight' is missing", name_, head_name);
    head = embedding;
    if (config.head_bias)
      head.bias = to_float(expect_shape(checkpoint_, head_name + ".bias", {config.vocab_size}));
  } else {
    head = read_linear(head_name, config.vocab_size, config.hidden_size, config.head_bias);
  }
  final_norm = read_norm(names.final_norm);
  blocks.resize(static_cast<size_t>(config.n_layers));
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    Block& b = blocks[i];
    b.attn_norm = read_norm(prefix + names.attn_norm);
    if (names.mlp_norm) b.mlp_norm = read_norm(prefix + names.mlp_norm);
    b.q = read_linear(prefix + names.q, config.query_size(), hidden, config.qkv_bias);
    b.k = read_linear(prefix + names.k, config.kv_size(), hidden, config.qkv_bias);
    b.v = read_linear(prefix + names.v, config.kv_size(), hidden, config.qkv_bias);
    b.o = read_linear(prefix + names.o, hidden, config.query_size(), config.out_bias);
    if (names.gate) b.gate = read_linear(prefix + names.gate, inner, hidden, config.mlp_bias);
    b.up = read_linear(prefix + names.up, inner, hidden, config.mlp_bias);
    b.down = read_linear(prefix + names.down, hidden, inner, config.mlp_bias);
  }
  if (const auto freqs = checkpoint_.tensors.find("rope_freqs.weight"); freqs != checkpoint_.tensors.end()) {
    rope_factors = to_float(freqs->second);
    if (rope_factors.size() != static_cast<size_t>(config.rope_dims / 2))
      fail("{}: rope_freqs.weight has {} values, expected {}", name_, rope_factors.size(),
           config.rope_dims / 2);
  }
}

Tokenizer Model::load_tokenizer() const {
  if (checkpoint_.tokenizer.is_null())
    fail("{}: tokenizer.json is missing; copy it beside config.json", name_);
  return Tokenizer::from_json(checkpoint_.tokenizer, name_ + "/tokenizer.json");
}

std::vector<const Linear*> Model::linears() const {
  std::vector<const Linear*> all;
  for (const Block& b : blocks) {
    for (const Linear* l : b.linears()) {
      if (l->present()) all.push_back(l);
    }
  }
  return all;
}

bool Model::is_quantized() const {
  const auto all = linears();
  return std::any_of(all.begin(), all.end(), [](const Linear* l) { return l->packed.has_value(); });
}

uint64_t Model::norm_parameters() const {
  const auto size = [](const Norm& n) { return n.weight.size() + n.bias.size(); };
  uint64_t total = size(final_norm);
  for (const Block& b : blocks) total += size(b.attn_norm) + size(b.mlp_norm);
  return total;
}

uint64_t Model::parameters() const {
  uint64_t total = norm_parameters() + static_cast<uint64_t>(embedding.n * embedding.k) + head.bias.size();
  if (!config.tied_head) total += static_cast<uint64_t>(head.n * head.k);
  for (const Linear* l : linears()) total += static_cast<uint64_t>(l->n * l->k) + l->bias.size();
  return total;
}

uint64_t Model::weight_bytes() const {
  uint64_t floats = norm_parameters() + head.bias.size();
  uint64_t total = embedding.weight_bytes();
  if (!config.tied_head) total += head.weight_bytes();
  for (const Linear* l : linears()) {
    total += l->weight_bytes();
    floats += l->bias.size();
  }
  return total + floats * sizeof(float);
}

std::shared_ptr<const Model> load_model(const std::filesystem::path& path, GgufDType gguf_dtype) {
  return std::make_shared<const Model>(open_checkpoint(path, gguf_dtype));
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  auto tokenizer =
      std::make_shared<const Tokenizer>(Tokenizer::from_json(load_tokenizer_json(path), path.string()));
  release_free_memory();
  return tokenizer;
}

LoadedModel load_model_and_tokenizer(const std::filesystem::path& path, GgufDType gguf_dtype) {
  LoadedModel loaded;
  loaded.tokenizer = load_tokenizer(path);
  loaded.model = std::make_shared<const Model>(open_checkpoint(path, gguf_dtype, false));
  return loaded;
}

}  // namespace nibble
