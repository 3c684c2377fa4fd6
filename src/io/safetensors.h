// safetensors: u64 header length, JSON header, data (https://github.com/huggingface/safetensors).
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/file.h"
#include "tensor/tensor.h"

namespace nibble {

// Tensors of one mapped file. Every length, type and offset is checked against the file when
// opened: offsets must tile the data without holes or overlaps. Throws Error otherwise.
// A tensor that does not lie at a multiple of its element size is copied into a buffer, so that
// every view may be read as its type.
struct SafetensorsFile {
  std::shared_ptr<const MappedFile> file;
  std::vector<std::shared_ptr<AlignedBuffer<std::byte>>> buffers;  // of misaligned tensors only
  std::map<std::string, TensorView> tensors;                       // views into the mapping or the buffers
  std::map<std::string, std::string> metadata;                     // "__metadata__"
};
SafetensorsFile open_safetensors(const std::filesystem::path& path);

// Writes tensors in the given order, back to back, the data starting at a multiple of 64 bytes;
// temporary name, sync, rename. Throws Error for a name given twice or reserved.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// A tensor whose bytes are made when its turn comes: `write` hands them to the sink, in any number of pieces.
using ByteSink = std::function<void(const void* data, size_t size)>;
struct StreamedTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::function<void(const ByteSink&)> write;
};
void write_safetensors(const std::filesystem::path& path, const std::vector<StreamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace nibble
