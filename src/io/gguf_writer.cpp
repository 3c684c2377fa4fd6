#include "io/gguf_writer.h"

#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "io/gguf_encoding.h"

namespace nibble {
namespace {

constexpr uint64_t kAlign = 32;  // the format's default

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out.append(text);
}

uint64_t padding(uint64_t size) { return (kAlign - size % kAlign) % kAlign; }

}  // namespace

uint64_t GgufWriter::Tensor::bytes() const {
  const GgmlTypeInfo& info = ggml_type_info(type);
  uint64_t elements = 1;
  for (const int64_t d : shape) elements *= static_cast<uint64_t>(d);
  return elements / info.block_elements * info.block_bytes;
}

void GgufWriter::begin_value(std::string_view key, uint32_t type) {
  put_text(metadata_, key);
  put(metadata_, type);
  ++values_;
}

void GgufWriter::add_text(std::string_view key, std::string_view value) {
  begin_value(key, gguf::kString);
  put_text(metadata_, value);
}

void GgufWriter::add_count(std::string_view key, int64_t value) {
  if (value < 0 || value > std::numeric_limits<uint32_t>::max())
    fail("GGUF: '{}' is {}, which is no 32-bit count", key, value);
  begin_value(key, gguf::kU32);
  put(metadata_, static_cast<uint32_t>(value));
}

void GgufWriter::add_number(std::string_view key, float value) {
  begin_value(key, gguf::kF32);
  put(metadata_, value);
}

void GgufWriter::add_flag(std::string_view key, bool value) {
  begin_value(key, gguf::kBool);
  put<uint8_t>(metadata_, value);
}

void GgufWriter::add_texts(std::string_view key, const std::vector<std::string>& values) {
  begin_value(key, gguf::kArray);
  put(metadata_, gguf::kString);
  put<uint64_t>(metadata_, values.size());
  for (const std::string& value : values) put_text(metadata_, value);
}

void GgufWriter::add_numbers(std::string_view key, const std::vector<float>& values) {
  begin_value(key, gguf::kArray);
  put(metadata_, gguf::kF32);
  put<uint64_t>(metadata_, values.size());
  for (const float value : values) put(metadata_, value);
}

void GgufWriter::add_integers(std::string_view key, const std::vector<int32_t>& values) {
  begin_value(key, gguf::kArray);
  put(metadata_, gguf::kI32);
  put<uint64_t>(metadata_, values.size());
  for (const int32_t value : values) put(metadata_, value);
}

void GgufWriter::add_tensor(std::string name, GgmlType type, std::vector<int64_t> shape,
                            std::function<void(const ByteSink&)> write) {
  NIBBLE_CHECK(!shape.empty() &&
               shape.back() % static_cast<int64_t>(ggml_type_info(type).block_elements) == 0);
  tensors_.push_back({std::move(name), type, std::move(shape), std::move(write)});
}

uint64_t GgufWriter::write(const std::filesystem::path& path) const {
  std::string head = "GGUF";
  put<uint32_t>(head, 3);
  put<uint64_t>(head, tensors_.size());
  put<uint64_t>(head, values_);
  head += metadata_;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    put_text(head, tensor.name);
    put(head, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) put(head, static_cast<uint64_t>(tensor.shape[i]));
    put(head, static_cast<uint32_t>(tensor.type));
    put(head, offset);
    offset += tensor.bytes() + padding(tensor.bytes());
  }
  head.append(padding(head.size()), '\0');

  AtomicFile file(path);
  file.write(head);
  const std::string zeros(kAlign, '\0');
  for (const Tensor& tensor : tensors_) {
    uint64_t written = 0;
    tensor.write([&](const void* data, size_t size) {
      file.write(data, size);
      written += size;
    });
    NIBBLE_CHECK(written == tensor.bytes());
    file.write(std::string_view(zeros).substr(0, padding(written)));
  }
  file.commit();
  return head.size() + offset;
}

}  // namespace nibble
