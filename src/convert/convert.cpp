#include "convert/convert.h"

#include <algorithm>

#include "base/file.h"
#include "convert/exports.h"
#include "io/foreign/repack.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

struct Named {
  ExportFormat format;
  const char* name;
};
constexpr Named kFormats[] = {{ExportFormat::kNibble, "nibble"},
                              {ExportFormat::kGptq, "gptq"},
                              {ExportFormat::kGptqV2, "gptq_v2"},
                              {ExportFormat::kAwq, "awq"},
                              {ExportFormat::kCompressedTensors, "compressed-tensors"},
                              {ExportFormat::kGguf, "gguf"}};

void check_out(const fs::path& out, bool file, bool force) {
  std::error_code error;
  if (!fs::exists(out, error)) return;
  if (fs::is_directory(out) == file)
    fail("{}: exists and is {} directory; give another name", out.string(), file ? "a" : "not a");
  if (!force && (file || !fs::is_empty(out)))
    fail("{}: exists; give another name, or --force to write over it", out.string());
}

// A GGUF's quantized tensors are in memory as rounded floats: what it said exactly is gone.
void check_source(const Model& model, const ConvertOptions& options) {
  if (options.dequantize) return;
  for (const auto& [name, type] : model.checkpoint().source_types) {
    if (type.starts_with("Q"))
      fail(
          "{}: {} is {} in the file, which is read dequantized and cannot be written again as it was; start "
          "from "
          "the original model, or give --dequantize",
          model.name(), name, type);
  }
}

}  // namespace

ExportFormat export_format(const std::string& name) {
  std::string known;
  for (const Named& named : kFormats) {
    if (name == named.name) return named.format;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", named.name);
  }
  throw UsageError(fmt::format("format '{}': there are {}", name, known));
}

std::vector<std::string> export_format_names() {
  std::vector<std::string> names;
  for (const Named& named : kFormats) names.emplace_back(named.name);
  return names;
}

std::string export_format_name(ExportFormat format) {
  return std::find_if(std::begin(kFormats), std::end(kFormats),
                      [&](const Named& n) { return n.format == format; })
      ->name;
}

std::vector<const Linear*> all_weights(const Model& model) {
  std::vector<const Linear*> all = model.linears();
  all.push_back(&model.embedding);
  if (!model.config.tied_head) all.push_back(&model.head);
  return all;
}

std::string packed_text(const PackedFormat& f) {
  return fmt::format("{}-bit {}{}", f.bits, f.group_size == 0 ? "row" : fmt::format("g{}", f.group_size),
                     f.symmetric ? " symmetric" : "");
}

void write_dequantized(const Linear& linear, const std::function<int64_t(int64_t)>& row_of,
                       const ByteSink& sink) {
  std::vector<float> row(static_cast<size_t>(linear.k));
  std::vector<uint16_t> half(row.size());
  std::vector<float> columns(row.size());
  for (int64_t r = 0; r < linear.n; ++r) {
    dequantize_row(*linear.packed, row_of(r), columns.data());
    for (size_t j = 0; j < row.size(); ++j)
      row[linear.order ? static_cast<size_t>(linear.order[j]) : j] = columns[j];
    std::transform(row.begin(), row.end(), half.begin(), float_to_fp16);
    sink(half.data(), half.size() * sizeof(uint16_t));
  }
}

void release_codes(const Model& model, const PackedView& weight) {
  release_pages(model.checkpoint(), {reinterpret_cast<const std::byte*>(weight.codes),
                                     static_cast<size_t>(weight.format.code_bytes())});
}

void write_companions(const Model& model, const fs::path& out) {
  const Checkpoint& from = model.checkpoint();
  const bool folder = fs::is_directory(from.path);
  if (folder && fs::exists(from.path / "tokenizer.json")) {
    write_file_atomically(out / "tokenizer.json", read_file(from.path / "tokenizer.json"));
  } else if (!from.tokenizer.is_null()) {
    write_file_atomically(out / "tokenizer.json", from.tokenizer.dump());
  }
  if (!from.generation_config.is_null())
    write_file_atomically(out / "generation_config.json", from.generation_config.dump(2) + "\n");
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"}) {
    if (folder && fs::exists(from.path / name))
      write_file_atomically(out / name, read_file(from.path / name));
  }
  if (!fs::exists(out / "tokenizer_config.json") && fs::exists(out / "tokenizer.json"))
    write_file_atomically(out / "tokenizer_config.json",
                          Json{{"tokenizer_class", "PreTrainedTokenizerFast"}}.dump(2) + "\n");
}

void create_out(const fs::path& out) {
  make_directory(out);
  std::error_code error;
  fs::remove(out / "config.json", error);  // of an older model: no half of two may look whole
}

ConvertReport export_nibble(const Model& model, const fs::path& out) {
  const Checkpoint& from = model.checkpoint();
  if (!from.config.contains("quantization_config"))
    fail("{}: nothing in it is quantized; nibble quantize makes a nibble directory of it", model.name());
  std::vector<std::pair<std::string, TensorView>> tensors(from.tensors.begin(), from.tensors.end());
  order_for_mapping(tensors);
  create_out(out);
  write_safetensors(out / "model.safetensors", tensors, {{"format", "nibble"}});
  write_companions(model, out);
  write_file_atomically(out / "config.json", from.config.dump(2) + "\n");
  ConvertReport report;
  report.file_bytes = fs::file_size(out / "model.safetensors");
  for (const Linear* linear : all_weights(model))
    ++report.types[linear->packed ? packed_text(linear->packed->format) : "dense"];
  return report;
}

ConvertReport convert_model(const Model& model, const ConvertOptions& options, const fs::path& out) {
  const bool file = options.to == ExportFormat::kGguf;
  check_out(out, file, options.force);
  check_source(model, options);
  if (file) return export_gguf(model, options, out);
  return options.to == ExportFormat::kNibble ? export_nibble(model, out)
                                             : export_hugging_face(model, options, out);
}

}  // namespace nibble
