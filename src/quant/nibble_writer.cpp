#include "quant/nibble_writer.h"

#include <algorithm>

#include "base/file.h"
#include "io/foreign/repack.h"
#include "io/safetensors.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

TensorView view_of(DType dtype, std::vector<int64_t> shape, const void* data) {
  return {dtype, std::move(shape), static_cast<const std::byte*>(data)};
}

Json config_of(const Model& model, const QuantizedTensors& tensors, const OrderedJson& summary) {
  Json config = model.checkpoint().config;
  OrderedJson linears = OrderedJson::object();
  int version = 1;
  for (const auto& [name, packed] : tensors.packed) {
    linears[name] = packed_entry(packed.method, packed.format, false);
    version = std::max(version, layout_version(packed.format, false));
  }
  OrderedJson quantization = {{"quant_method", "nibble"}, {"layout_version", version}};
  quantization.update(summary);
  quantization["linears"] = std::move(linears);
  config["quantization_config"] = Json(quantization);
  return config;
}

}  // namespace

void write_nibble_directory(const Model& model, const QuantizedTensors& tensors, const OrderedJson& summary,
                            const fs::path& out) {
  std::vector<std::pair<std::string, TensorView>> all;
  for (const auto& [name, packed] : tensors.packed)
    add_packed_tensors(name, packed.buffers.view(packed.format), {}, all);
  for (const auto& [name, values] : tensors.floats) {
    const auto original = model.checkpoint().tensors.find(name);
    NIBBLE_CHECK(original != model.checkpoint().tensors.end());
    all.emplace_back(name, view_of(DType::kF32, original->second.shape, values.data()));
  }
  for (const auto& [name, view] : model.checkpoint().tensors) {
    const bool replaced =
        tensors.floats.contains(name) ||
        (name.ends_with(".weight") && tensors.packed.contains(name.substr(0, name.size() - 7))) ||
        (model.config.tied_head && name == std::string(model.architecture().names.head) + ".weight");
    if (!replaced) all.emplace_back(name, view);
  }
  order_for_mapping(all);
  write_safetensors(out / "model.safetensors", all, {{"format", "nibble"}});
  write_beside_weights(model.checkpoint(), config_of(model, tensors, summary), out);
}

void write_beside_weights(const Checkpoint& from, const Json& config, const fs::path& out) {
  if (!from.tokenizer.is_null()) write_file_atomically(out / "tokenizer.json", from.tokenizer.dump());
  if (!from.generation_config.is_null())
    write_file_atomically(out / "generation_config.json", from.generation_config.dump(2));
  const fs::path tokenizer_config = from.path / "tokenizer_config.json";
  if (fs::exists(tokenizer_config))
    write_file_atomically(out / "tokenizer_config.json", read_file(tokenizer_config));
  write_file_atomically(out / "config.json", config.dump(2) + "\n");
}

}  // namespace nibble
