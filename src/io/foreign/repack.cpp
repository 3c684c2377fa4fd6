#include "io/foreign/repack.h"

#include <algorithm>
#include <span>

#include "base/thread_pool.h"
#include "io/foreign/awq.h"
#include "io/foreign/compressed_tensors.h"
#include "io/foreign/foreign_config.h"
#include "io/foreign/gptq.h"

namespace nibble {
namespace {

struct Repacked {
  std::string name;
  PackedFormat format;
  PackedBuffers buffers;
  std::vector<int32_t> order;
};

constexpr size_t kBytesPerThread = size_t{1} << 20;  // on less a thread costs more than it saves

constexpr const char* kSuffixes[] = {".qweight",       ".qzeros",       ".scales",       ".g_idx",
                                     ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point",
                                     ".weight_g_idx"};

// GPTQ's label of its version is often wrong: a model whose zero points are all the middle says which it is.
GptqZeros gptq_zeros(const Checkpoint& checkpoint, const ForeignConfig& config,
                     const std::vector<std::string>& linears) {
  const auto all_are = [&](int below_middle) {
    return std::all_of(linears.begin(), linears.end(), [&](const std::string& name) {
      const int bits = config.format(name).bits;
      return gptq_zeros_are(checkpoint.tensors, name, bits, (1 << (bits - 1)) - below_middle,
                            checkpoint.path.string());
    });
  };
  if (all_are(0)) return GptqZeros::kPlain;
  if (!all_are(1) && config.says_gptq_v2()) return GptqZeros::kPlain;
  return config.made_by_gptqmodel() ? GptqZeros::kMinusOneCarried : GptqZeros::kMinusOne;
}

std::string config_name(const Checkpoint& checkpoint) { return (checkpoint.path / "config.json").string(); }

}  // namespace

bool has_foreign_quantization(const Json& config) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object()) return false;
  const auto method = found->find("quant_method");
  return method == found->end() || *method != "nibble";
}

void add_packed_tensors(const std::string& name, const PackedView& weight, const std::vector<int32_t>& order,
                        std::vector<std::pair<std::string, TensorView>>& out) {
  const PackedFormat& f = weight.format;
  const auto add = [&](const char* suffix, DType dtype, std::vector<int64_t> shape, const void* data) {
    out.emplace_back(name + suffix, TensorView{dtype, std::move(shape), static_cast<const std::byte*>(data)});
  };
  add(".codes", DType::kU8, {f.panels(), f.chunks() * f.chunk_bytes()}, weight.codes);
  add(".scales", scale_dtype(f.scale_type), {f.panels(), f.scale_rows(), kPanelRows}, weight.scales);
  if (!f.symmetric)
    add(".zeros", DType::kU8, {f.panels(), f.groups(), f.zero_bytes_per_group()}, weight.zeros);
  if (!order.empty()) add(".order", DType::kI32, {f.k}, order.data());
}

void order_for_mapping(std::vector<std::pair<std::string, TensorView>>& tensors) {
  // Codes are multiples of 64 bytes; then 8-, 4-, 2- and 1-byte types.
  const auto rank = [](const std::pair<std::string, TensorView>& tensor) {
    return tensor.first.ends_with(".codes") ? 0 : 9 - static_cast<int>(dtype_size(tensor.second.dtype));
  };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
}

OrderedJson packed_entry(const std::string& method, const PackedFormat& f, bool ordered) {
  OrderedJson entry = {
      {"method", method}, {"bits", f.bits}, {"group_size", f.group_size}, {"symmetric", f.symmetric}};
  if (f.scale_type == ScaleType::kF32) entry["float_scales"] = true;
  if (f.scale_type == ScaleType::kByte) entry["byte_scales"] = true;
  if (f.wide_zeros) entry["wide_zeros"] = true;
  if (ordered) entry["ordered"] = true;
  return entry;
}

PackedFormat packed_format(const Json& entry, int64_t n, int64_t k, const std::string& where) {
  PackedFormat f;
  f.bits = json_get<int>(entry, "bits", where);
  f.group_size = json_get<int>(entry, "group_size", where);
  f.symmetric = json_get<bool>(entry, "symmetric", where);
  if (json_get_or<bool>(entry, "byte_scales", false, where)) f.scale_type = ScaleType::kByte;
  if (json_get_or<bool>(entry, "float_scales", false, where)) f.scale_type = ScaleType::kF32;
  f.wide_zeros = json_get_or<bool>(entry, "wide_zeros", false, where);
  f.n = n;
  f.k = k;
  f.validate();
  return f;
}

int layout_version(const PackedFormat& f, bool ordered) {
  if (f.scale_type == ScaleType::kByte) return 3;
  return ordered || f.scale_type == ScaleType::kF32 || f.wide_zeros ? 2 : 1;
}

void repack_foreign(Checkpoint& checkpoint) {
  const Json source = checkpoint.config.at("quantization_config");
  const ForeignConfig config(source, config_name(checkpoint));
  const std::string where = checkpoint.path.string();
  const bool compressed = config.method() == ForeignMethod::kCompressedTensors;
  const std::string_view mark = compressed ? ".weight_packed" : ".qweight";
  std::vector<std::string> linears;
  size_t bytes = 0;
  for (const auto& [name, view] : checkpoint.tensors) {
    if (!name.ends_with(mark)) continue;
    linears.push_back(name.substr(0, name.size() - mark.size()));
    bytes += view.bytes();
  }
  if (linears.empty())
    fail("{}: config.json says {}, but no tensor is quantized so (none is named …{})", where,
         config.method_name(), mark);
  const GptqZeros zeros =
      config.method() == ForeignMethod::kGptq ? gptq_zeros(checkpoint, config, linears) : GptqZeros::kPlain;

  std::vector<std::shared_ptr<Repacked>> all(linears.size());
  const size_t worth = std::min(linears.size(), 1 + bytes / kBytesPerThread);
  ThreadPool pool(worth == 1 ? 1
                             : static_cast<int>(std::min(static_cast<size_t>(available_threads()), worth)));
  pool.parallel_each(linears.size(), [&](size_t i, int) {
    const std::string& name = linears[i];
    const ForeignFormat format = config.format(name);
    const ForeignLinear linear = compressed ? read_compressed_tensors(checkpoint.tensors, name, format, where)
                                 : config.method() == ForeignMethod::kAwq
                                     ? read_awq(checkpoint.tensors, name, format, where)
                                     : read_gptq(checkpoint.tensors, name, format, zeros, where);
    for (const char* suffix : kSuffixes) {
      if (const auto used = checkpoint.tensors.find(name + suffix); used != checkpoint.tensors.end())
        release_pages(checkpoint, {used->second.data, used->second.bytes()});
    }
    all[i] =
        std::make_shared<Repacked>(Repacked{name, linear.matrix.format, pack(linear.matrix), linear.order});
  });

  Json entries = Json::object();
  int version = 1;
  std::vector<std::pair<std::string, TensorView>> added;
  for (const auto& linear : all) {
    for (const char* suffix : kSuffixes) checkpoint.tensors.erase(linear->name + suffix);
    add_packed_tensors(linear->name, linear->buffers.view(linear->format), linear->order, added);
    entries[linear->name] = packed_entry(config.method_name(), linear->format, !linear->order.empty());
    version = std::max(version, layout_version(linear->format, !linear->order.empty()));
    checkpoint.buffers.push_back(linear);
  }
  for (auto& [name, view] : added) {
    if (!checkpoint.tensors.emplace(name, view).second) fail("{}: tensor '{}' is there twice", where, name);
  }
  const PackedFormat& first = all.front()->format;
  checkpoint.config["quantization_config"] = {{"quant_method", "nibble"},
                                              {"layout_version", version},
                                              {"method", config.method_name()},
                                              {"bits", config.base().bits},
                                              {"group_size", config.base().group_size},
                                              {"symmetric", first.symmetric},
                                              {"linears", std::move(entries)},
                                              {"source", source}};
  checkpoint.format = config.method_name();
}

}  // namespace nibble
