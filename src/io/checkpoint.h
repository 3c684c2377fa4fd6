// One view of every checkpoint this program reads: names and configuration as Hugging Face
// spells them, whatever the file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "tensor/tensor.h"

namespace nibble {

struct Checkpoint {
  std::filesystem::path path;  // what was opened
  std::string format;          // "safetensors", "gguf", "nibble"; or "gptq", "awq", "compressed-tensors"
  Json config;                 // config.json, or the same keys made from GGUF metadata
  Json tokenizer;              // tokenizer.json, or the same made from GGUF metadata; null if absent
  Json generation_config;      // generation_config.json; null if absent
  std::map<std::string, TensorView> tensors;        // Hugging Face names and shapes; views
  std::map<std::string, std::string> source_types;  // GGUF only: the type in the file, "Q4_1"
  uint64_t file_bytes = 0;                          // of the weight files
  std::vector<std::filesystem::path> weight_files;

  // What the views point into.
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<std::shared_ptr<const void>> buffers;
};

enum class GgufDType { kBF16, kF32 };  // what quantized GGUF tensors are dequantized to

// A directory with config.json and model.safetensors (or model.safetensors.index.json), or a
// .gguf file. What other tools quantized is repacked into nibble's layout (io/foreign/repack.h). Tensors that
// need no change are views of the mapped file. GGUF: quantized types are dequantized into buffers of
// `gguf_dtype`; F32, F16 and BF16 keep their type (norms stay float32), copied only where rows must be put in
// another order. Llama 3's rope factors, where the file has them, are the tensor "rope_freqs.weight" (F32
// [rotary/2]; frequency i is divided by factor i). Without tokenizer, `tokenizer` stays null: its JSON takes
// much more memory than the file. Throws Error for anything missing, truncated or inconsistent.
Checkpoint open_checkpoint(const std::filesystem::path& path, GgufDType gguf_dtype = GgufDType::kBF16,
                           bool with_tokenizer = true);

// Gives back the memory of a part that has been read, where it lies in a mapped file.
void release_pages(const Checkpoint& checkpoint, std::span<const std::byte> part);

// Only the tokenizer: tokenizer.json of a directory (weights need not be there), the file itself,
// or the one made from a .gguf file's metadata. Throws Error when there is none.
Json load_tokenizer_json(const std::filesystem::path& path);

// sha256 over the weight files' contents, as lower-case hex: the identity of a model.
std::string checkpoint_sha256(const Checkpoint& checkpoint);
// The same over the configuration and the names, types, sizes and beginnings of the tensors: at once, for
// what was begun with a model and is to go on with the same one.
std::string checkpoint_outline_sha256(const Checkpoint& checkpoint);

}  // namespace nibble
