// The container: header, metadata and tensor list of a GGUF file, every number checked
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "io/gguf_dequantize.h"

namespace nibble {

struct GgufTensor {
  std::string name;
  GgmlType type;
  std::vector<int64_t> shape;       // row-major: the file's dimensions reversed; none is 0
  std::span<const std::byte> data;  // in the mapping
};

// Metadata stays where it lies in the mapping; what is asked for is decoded. Each getter throws
// Error naming the file and key when the value has another type or, without a default, is missing.
class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);  // header and metadata

  // The tensor list. Data must lie in the file, aligned, without overlaps.
  std::vector<GgufTensor> read_tensors() const;

  const std::shared_ptr<const MappedFile>& file() const { return file_; }
  bool has(const std::string& key) const { return values_.contains(key); }
  std::string text(const std::string& key) const;  // valid UTF-8
  std::string text_or(const std::string& key, const std::string& otherwise) const;
  int64_t integer(const std::string& key) const;  // any integer type
  int64_t integer_or(const std::string& key, int64_t otherwise) const;
  double number(const std::string& key) const;  // float32 or float64, finite
  double number_or(const std::string& key, double otherwise) const;
  bool flag_or(const std::string& key, bool otherwise) const;
  std::vector<std::string_view> texts(const std::string& key) const;  // array; each valid UTF-8
  std::vector<int64_t> integers(const std::string& key) const;        // array of any integer type
  std::vector<float> numbers(const std::string& key) const;           // array of float32, each finite

 private:
  struct Value {
    uint32_t type;  // GGUF's number of the type; of the elements when `array`
    bool array;
    uint64_t count;         // 1 for a scalar
    const std::byte* data;  // packed values; strings as u64 length and bytes
  };
  const Value& value(const std::string& key, bool array, const char* expected) const;
  [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Value> values_;
  uint64_t n_tensors_ = 0;
  size_t tensor_list_ = 0;   // byte offset
  uint64_t alignment_ = 32;  // bytes
};

}  // namespace nibble
