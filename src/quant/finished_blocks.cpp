#include "quant/finished_blocks.h"

#include <cstring>

#include "base/file.h"
#include "io/foreign/repack.h"
#include "io/safetensors.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

template <typename T>
AlignedBuffer<T> copy_of(const SafetensorsFile& file, const std::string& name, int64_t count) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end() || found->second.bytes() != static_cast<size_t>(count) * sizeof(T))
    fail("'{}' is missing or of another size", name);
  AlignedBuffer<T> out(static_cast<size_t>(count));
  std::memcpy(out.data(), found->second.data, out.bytes());
  return out;
}

QuantizedTensors read_block(const fs::path& path, const SafetensorsFile& file) {
  const std::string where = path.string();
  const auto text = [&](const char* key) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) fail("{}: no '{}'", where, key);
    return parse_json(found->second, where);
  };
  QuantizedTensors out;
  const Json reports = text("reports"), packed_entries = text("packed"), floats = text("floats");
  for (const Json& report : reports) out.reports.push_back(layer_report(report, where));
  for (const auto& [name, entry] : packed_entries.items()) {
    const PackedFormat format = packed_format(entry, json_get<int64_t>(entry, "n", where),
                                              json_get<int64_t>(entry, "k", where), where);
    auto& packed = out.packed[name];
    packed.format = format;
    packed.method = json_get<std::string>(entry, "method", where);
    packed.buffers.codes = copy_of<uint8_t>(file, name + ".codes", format.code_bytes());
    packed.buffers.scales = copy_of<uint8_t>(file, name + ".scales", format.scale_bytes());
    if (!format.symmetric)
      packed.buffers.zeros = copy_of<uint8_t>(file, name + ".zeros", format.zero_bytes());
  }
  for (const Json& name : floats) {
    const std::string key = name.get<std::string>();
    const TensorView& view = file.tensors.at(key);
    const auto values = copy_of<float>(file, key, static_cast<int64_t>(view.bytes() / sizeof(float)));
    out.floats[key].assign(values.data(), values.data() + values.size());
  }
  return out;
}

}  // namespace

FinishedBlocks::FinishedBlocks(fs::path folder, std::string key)
    : folder_(std::move(folder)), key_(std::move(key)) {}

fs::path FinishedBlocks::file(int layer) const {
  return folder_ / fmt::format("block-{:03d}.safetensors", layer);
}

void FinishedBlocks::save(int layer, const QuantizedTensors& all, size_t first_report) const {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  std::vector<std::pair<std::string, TensorView>> tensors;
  OrderedJson packed_json = OrderedJson::object(), floats = OrderedJson::array(),
              reports = OrderedJson::array();
  for (const auto& [name, packed] : all.packed) {
    if (!name.starts_with(prefix)) continue;
    add_packed_tensors(name, packed.buffers.view(packed.format), {}, tensors);
    OrderedJson entry = packed_entry(packed.method, packed.format, false);
    entry["n"] = packed.format.n;
    entry["k"] = packed.format.k;
    packed_json[name] = std::move(entry);
  }
  for (const auto& [name, values] : all.floats) {
    if (!name.starts_with(prefix)) continue;
    tensors.emplace_back(name, TensorView{DType::kF32,
                                          {static_cast<int64_t>(values.size())},
                                          reinterpret_cast<const std::byte*>(values.data())});
    floats.push_back(name);
  }
  for (size_t i = first_report; i < all.reports.size(); ++i) reports.push_back(to_json(all.reports[i]));
  make_directory(folder_);
  order_for_mapping(tensors);
  write_safetensors(file(layer), tensors,
                    {{"key", key_},
                     {"packed", packed_json.dump()},
                     {"floats", floats.dump()},
                     {"reports", reports.dump()}});
}

std::optional<QuantizedTensors> FinishedBlocks::load(int layer) const {
  const fs::path path = file(layer);
  if (!fs::exists(path)) return std::nullopt;
  try {
    const SafetensorsFile stored = open_safetensors(path);
    const auto key = stored.metadata.find("key");
    if (key == stored.metadata.end() || key->second != key_) return std::nullopt;
    return read_block(path, stored);
  } catch (const std::exception&) {
    return std::nullopt;  // made again
  }
}

}  // namespace nibble
