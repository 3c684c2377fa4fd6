// GPTQ, AWQ and compressed-tensors out of packed weights.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "base/file.h"
#include "convert/exports.h"
#include "convert/quantization_config.h"
#include "io/foreign/awq.h"
#include "io/foreign/compressed_tensors.h"
#include "io/foreign/gptq.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::pair<int, int> zero_range(const PackedView& weight) {
  const PackedFormat& f = weight.format;
  int least = f.middle(), greatest = f.middle();
  for (int64_t row = 0; !f.symmetric && row < f.n; ++row) {
    for (int64_t g = 0; g < f.groups(); ++g) {
      const int z = packed_zero(weight, row, g);
      least = row == 0 && g == 0 ? z : std::min(least, z);
      greatest = row == 0 && g == 0 ? z : std::max(greatest, z);
    }
  }
  return {least, greatest};
}

// The option that avoids a short group, where there is one.
std::string dividing_group(const PackedFormat& f) {
  for (const int group : {128, 64, 32, 16}) {
    if (group < f.group() && f.k % group == 0) return fmt::format("quantize with --group-size {}, ", group);
  }
  return "";
}

// Why the format cannot hold this packed linear, with what helps; empty when it can.
std::string obstacle(const Linear& linear, ExportFormat to, const PackedFormat& most_common) {
  const PackedFormat& f = linear.packed->format;
  const auto [least, greatest] = zero_range(*linear.packed);
  const bool gptq = to == ExportFormat::kGptq || to == ExportFormat::kGptqV2;
  if (to == ExportFormat::kAwq && f.bits != 4)
    return fmt::format(
        "{} bits, AWQ has 4; quantize with --bits 4, or this layer at 16 bits by a rule of --plan", f.bits);
  if (gptq && f.bits == 6) return "6 bits, GPTQ has 2, 3, 4 and 8; quantize with --bits 4 or 8";
  if (f.scale_type == ScaleType::kF32 && to != ExportFormat::kCompressedTensors)
    return "scales that fp16 cannot hold; --to compressed-tensors can";
  if (linear.order && to == ExportFormat::kAwq)
    return "its groups are not contiguous (act-order); --to gptq can";
  const int from = to == ExportFormat::kGptq ? 1 : 0, until = f.max_code() + from;
  if (least < from || greatest > until)
    return fmt::format("a zero point of {}, the format holds {} to {}; {}", least < from ? least : greatest,
                       from, until,
                       least < from                ? "--to gptq_v2 can, or quantize with --symmetric"
                       : to == ExportFormat::kGptq ? "quantize with --symmetric"
                                                   : "--to gptq can");
  if (gptq && (f.n * f.bits % 32 != 0 || f.k * f.bits % 32 != 0))
    return fmt::format(
        "a shape of [{}, {}], whose {}-bit codes do not fill words of 32 bits; leave this layer at 16 "
        "bits by a rule of --plan",
        f.n, f.k, f.bits);
  if (to == ExportFormat::kAwq && f.n % 8 != 0)
    return fmt::format("{} outputs, not a multiple of 8; leave this layer at 16 bits by a rule of --plan",
                       f.n);
  if (!gptq && f.k % f.group() != 0)
    return fmt::format(
        "{} inputs leave a short last group of {} at group size {}; {}leave this layer at 16 bits by a "
        "rule of --plan, or --to gptq",
        f.k, f.k % f.group(), f.group(), dividing_group(f));
  if (to == ExportFormat::kAwq && f.group_size != most_common.group_size)
    return fmt::format(
        "group size {} where others have {}, AWQ has one for all; quantize with one --group-size",
        f.group_size, most_common.group_size);
  return "";
}

ForeignLinear foreign_linear(const Linear& linear) {
  ForeignLinear out{unpack(*linear.packed), {}};
  if (linear.order) out.order.assign(linear.order, linear.order + linear.k);
  return out;
}

std::vector<ForeignTensor> tensors_of(const Linear& linear, ExportFormat to) {
  const PackedFormat& f = linear.packed->format;
  if (to == ExportFormat::kAwq) return awq_tensors(f);
  if (to == ExportFormat::kCompressedTensors) return compressed_tensors_tensors(f, linear.order != nullptr);
  return gptq_tensors(f);
}

void fill(const Linear& linear, ExportFormat to, std::vector<ForeignTensor>& out) {
  const ForeignLinear foreign = foreign_linear(linear);
  if (to == ExportFormat::kAwq) {
    fill_awq(foreign, out);
  } else if (to == ExportFormat::kCompressedTensors) {
    fill_compressed_tensors(foreign, out);
  } else {
    fill_gptq(foreign, to == ExportFormat::kGptq ? GptqZeros::kMinusOne : GptqZeros::kPlain, out);
  }
}

// The linear's tensors: made together when the first is written, freed after the last.
struct Made {
  std::vector<ForeignTensor> tensors;
  size_t left = 0;
};

void add_packed(const Model& model, const Linear& linear, ExportFormat to, std::vector<StreamedTensor>& out) {
  const auto made = std::make_shared<Made>(Made{tensors_of(linear, to), 0});
  for (size_t i = 0; i < made->tensors.size(); ++i) {
    const ForeignTensor& tensor = made->tensors[i];
    StreamedTensor streamed{linear.name + "." + tensor.suffix, tensor.dtype, tensor.shape, {}};
    if (tensor.suffix == "weight_shape") {  // written far from the others
      streamed.write = [&linear](const ByteSink& sink) {
        const int64_t shape[2] = {linear.n, linear.k};
        sink(shape, sizeof shape);
      };
    } else {
      ++made->left;
      streamed.write = [&model, &linear, to, made, i](const ByteSink& sink) {
        if (made->tensors[i].data.size() == 0) fill(linear, to, made->tensors);
        sink(made->tensors[i].data.data(), made->tensors[i].data.size());
        if (--made->left > 0) return;
        made->tensors.clear();
        release_codes(model, *linear.packed);
      };
    }
    out.push_back(std::move(streamed));
  }
}

// Wide types first, so that all lie at multiples of their size; a packed linear's tensors stay together.
int rank(const StreamedTensor& tensor, const std::set<std::string>& packed) {
  if (tensor.dtype == DType::kI64) return 0;
  return packed.contains(tensor.name.substr(0, tensor.name.rfind('.')))
             ? 10
             : 9 - static_cast<int>(dtype_size(tensor.dtype));
}

}  // namespace

ConvertReport export_hugging_face(const Model& model, const ConvertOptions& options, const fs::path& out) {
  const std::string name = export_format_name(options.to);
  if (!model.rope_factors.empty())
    fail(
        "{}: its rope factors come as a tensor, which config.json cannot say; start from the Hugging Face "
        "directory",
        model.name());
  std::vector<const Linear*> packed, as_f16;
  std::vector<std::string> dense;  // linears that stay as they are
  for (const Linear* l : model.linears()) {
    if (l->packed) packed.push_back(l);
    if (!l->packed) dense.push_back(l->name);
  }
  if (packed.empty())
    fail("{}: no linear of its blocks is quantized; nibble quantize … --format {} does both", model.name(),
         name);
  const PackedFormat base = common_format(packed);
  std::erase_if(packed, [&](const Linear* l) {
    const std::string reason = obstacle(*l, options.to, base);
    if (reason.empty()) return false;
    if (!options.dequantize)
      fail("{} cannot say {}: {}; or --dequantize to write it as F16", name, l->name, reason);
    as_f16.push_back(l);
    dense.push_back(l->name);
    return true;
  });
  for (const Linear* end : {&model.embedding, &model.head}) {
    if (end == &model.head && model.config.tied_head) continue;
    if (end == &model.head) dense.push_back(end->name);
    if (!end->packed) continue;
    if (!options.dequantize)
      fail(
          "{} cannot say {}: {}, it has embedding and head at 16 bits; quantize with --head-bits 16, or "
          "--dequantize "
          "to write it as F16",
          name, end->name, packed_text(end->packed->format));
    as_f16.push_back(end);
  }
  if (model.config.tied_head) dense.emplace_back(model.architecture().names.head);
  if (packed.empty()) fail("{}: {} can say none of its quantized linears", model.name(), name);

  std::vector<StreamedTensor> tensors;
  std::set<std::string> done;
  for (const Linear* l : all_weights(model)) {
    if (!l->packed) continue;
    for (const char* suffix : {".codes", ".scales", ".zeros", ".order"}) done.insert(l->name + suffix);
    if (std::find(packed.begin(), packed.end(), l) != packed.end()) {
      add_packed(model, *l, options.to, tensors);
    } else {
      tensors.push_back({l->name + ".weight", DType::kF16, {l->n, l->k}, [l](const ByteSink& sink) {
                           write_dequantized(
                               *l, [](int64_t r) { return r; }, sink);
                         }});
    }
  }
  for (const auto& [tensor, view] : model.checkpoint().tensors) {
    if (!done.contains(tensor))
      tensors.push_back({tensor, view.dtype, view.shape,
                         [&view = view](const ByteSink& sink) { sink(view.data, view.bytes()); }});
  }
  std::set<std::string> together;
  for (const Linear* l : packed) together.insert(l->name);
  std::stable_sort(tensors.begin(), tensors.end(), [&](const StreamedTensor& x, const StreamedTensor& y) {
    return rank(x, together) < rank(y, together);
  });
  create_out(out);
  write_safetensors(out / "model.safetensors", tensors, {{"format", "pt"}});
  write_companions(model, out);

  Json config = model.checkpoint().config;
  const bool wide = std::any_of(packed.begin(), packed.end(),
                                [](auto* l) { return l->packed->format.scale_type == ScaleType::kF32; });
  // Readers make scales the model's type: only these keep every digit of them.
  config.erase("dtype");
  config["torch_dtype"] = wide ? "float32" : "float16";
  config["quantization_config"] =
      Json(options.to == ExportFormat::kAwq ? awq_config(dense, base)
           : options.to == ExportFormat::kCompressedTensors
               ? compressed_tensors_config(packed, dense)
               : gptq_config(packed, dense, options.to == ExportFormat::kGptqV2, base));
  write_file_atomically(out / "config.json", config.dump(2) + "\n");

  ConvertReport report;
  report.file_bytes = fs::file_size(out / "model.safetensors");
  for (const Linear* l : packed) ++report.types[fmt::format("{} {}", name, packed_text(l->packed->format))];
  for (const Linear* l : as_f16) report.dequantized.push_back(l->name);
  if (!as_f16.empty()) report.types["F16, dequantized"] = static_cast<int>(as_f16.size());
  for (const Linear* l : all_weights(model)) {
    if (!l->packed) ++report.types["dense"];
  }
  return report;
}

}  // namespace nibble
