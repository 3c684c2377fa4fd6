// Writes a GGUF file, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): temporary name,
// sync, rename. Tensors' bytes are made when their turn comes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_dequantize.h"
#include "io/safetensors.h"

namespace nibble {

class GgufWriter {
 public:
  void add_text(std::string_view key, std::string_view value);
  void add_count(std::string_view key, int64_t value);  // uint32; throws Error when it does not fit
  void add_number(std::string_view key, float value);
  void add_flag(std::string_view key, bool value);
  void add_texts(std::string_view key, const std::vector<std::string>& values);
  void add_numbers(std::string_view key, const std::vector<float>& values);
  void add_integers(std::string_view key, const std::vector<int32_t>& values);

  // shape: row-major; the row a whole number of the type's blocks.
  void add_tensor(std::string name, GgmlType type, std::vector<int64_t> shape,
                  std::function<void(const ByteSink&)> write);
  uint64_t write(const std::filesystem::path& path) const;  // returns the file's bytes

 private:
  struct Tensor {
    std::string name;
    GgmlType type;
    std::vector<int64_t> shape;
    std::function<void(const ByteSink&)> write;
    uint64_t bytes() const;
  };
  void begin_value(std::string_view key, uint32_t type);

  std::string metadata_;
  uint64_t values_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace nibble
