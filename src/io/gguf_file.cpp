#include "io/gguf_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "io/gguf_encoding.h"
#include "io/quote_name.h"
#include "io/utf8.h"

namespace nibble {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's limit

size_t scalar_size(uint32_t type) {  // 0 for types of no fixed size and for unknown ones
  switch (type) {
    case gguf::kU8:
    case gguf::kI8:
    case gguf::kBool:
      return 1;
    case gguf::kU16:
    case gguf::kI16:
      return 2;
    case gguf::kU32:
    case gguf::kI32:
    case gguf::kF32:
      return 4;
    case gguf::kU64:
    case gguf::kI64:
    case gguf::kF64:
      return 8;
    default:
      return 0;
  }
}

// Walks through the file; every step is checked against its end.
class Cursor {
 public:
  Cursor(const MappedFile& file, size_t at) : bytes_(file.bytes()), at_(at), where_(file.path().string()) {}

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  const std::string& where() const { return where_; }

  const std::byte* take(uint64_t n, const char* what) {
    if (n > left()) {
      fail("{}: {} needs {} bytes at byte {}, but {} are left; is the file truncated?", where_, what, n, at_,
           left());
    }
    const std::byte* p = bytes_.data() + at_;
    at_ += n;
    return p;
  }
  template <typename T>
  T read(const char* what) {
    return gguf::load<T>(take(sizeof(T), what));
  }
  std::string_view read_string(const char* what) {
    const uint64_t size = read<uint64_t>(what);
    return {reinterpret_cast<const char*>(take(size, what)), size};
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_;
  std::string where_;
};

int64_t load_integer(uint32_t type, const std::byte* p, bool& fits) {
  switch (type) {
    case gguf::kU8:
      return gguf::load<uint8_t>(p);
    case gguf::kI8:
      return gguf::load<int8_t>(p);
    case gguf::kU16:
      return gguf::load<uint16_t>(p);
    case gguf::kI16:
      return gguf::load<int16_t>(p);
    case gguf::kU32:
      return gguf::load<uint32_t>(p);
    case gguf::kI32:
      return gguf::load<int32_t>(p);
    case gguf::kI64:
      return gguf::load<int64_t>(p);
    case gguf::kU64: {
      const uint64_t value = gguf::load<uint64_t>(p);
      fits = fits && value <= INT64_MAX;
      return static_cast<int64_t>(value);
    }
    default:
      fits = false;
      return 0;
  }
}

GgufTensor read_tensor(Cursor& cursor) {
  GgufTensor tensor;
  tensor.name = cursor.read_string("a tensor's name");
  const std::string where = fmt::format("{}: tensor {}", cursor.where(), quote_name(tensor.name));
  const uint32_t n_dims = cursor.read<uint32_t>("a tensor's number of dimensions");
  if (n_dims < 1 || n_dims > 4) fail("{}: {} dimensions, expected 1 to 4", where, n_dims);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < n_dims; ++i) {
    const uint64_t dim = cursor.read<uint64_t>("a tensor's dimensions");
    // 2^56 elements leave room for every later product with an element's size.
    if (dim == 0 || __builtin_mul_overflow(elements, dim, &elements) || elements > uint64_t{1} << 56) {
      fail("{}: its dimension number {} is {}, which is no possible size", where, i, dim);
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(dim));
  }
  const uint32_t type = cursor.read<uint32_t>("a tensor's type");
  const GgmlTypeInfo* info = find_ggml_type(type);
  if (!info) {
    fail(
        "{}: ggml type number {} is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K "
        "and Q6_K are",
        where, type);
  }
  tensor.type = info->type;
  if (static_cast<uint64_t>(tensor.shape.back()) % info->block_elements != 0) {
    fail("{}: rows of {} elements, but {} comes in blocks of {}", where, tensor.shape.back(), info->name,
         info->block_elements);
  }
  return tensor;
}

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile result;
  result.file_ = MappedFile::open(path);
  Cursor cursor(*result.file_, 0);
  const std::string& where = cursor.where();
  if (std::memcmp(cursor.take(4, "the magic number"), "GGUF", 4) != 0) {
    fail("{}: does not begin with 'GGUF'; not a GGUF file", where);
  }
  const uint32_t version = cursor.read<uint32_t>("the version");
  if (version != 2 && version != 3) {
    fail("{}: GGUF version {}, expected 2 or 3{}", where, version,
         version % 65536 == 0 ? " (big-endian files are not supported)" : "");
  }
  result.n_tensors_ = cursor.read<uint64_t>("the number of tensors");
  const uint64_t n_values = cursor.read<uint64_t>("the number of metadata values");

  for (uint64_t i = 0; i < n_values; ++i) {
    const std::string key(cursor.read_string("a metadata key"));
    if (key.size() > kMaxKeyBytes) fail("{}: a metadata key of {} bytes", where, key.size());
    Value value{cursor.read<uint32_t>("a metadata type"), false, 1, nullptr};
    if (value.type == gguf::kArray) {
      value.array = true;
      value.type = cursor.read<uint32_t>("an array's type");
      value.count = cursor.read<uint64_t>("an array's length");
    }
    const std::string what = fmt::format("metadata {}", quote_name(key));
    const size_t size = scalar_size(value.type);
    if (size == 0 && value.type != gguf::kString) {
      fail("{}: {} has type number {}, which is not supported{}", where, what, value.type,
           value.type == gguf::kArray ? " (an array of arrays)" : "");
    }
    value.data = cursor.take(0, what.c_str());
    if (value.type == gguf::kString) {
      for (uint64_t j = 0; j < value.count; ++j) cursor.read_string(what.c_str());
    } else if (value.count > cursor.left() / size) {
      fail("{}: {} announces {} values of {} bytes, but {} bytes are left; is the file truncated?", where,
           what, value.count, size, cursor.left());
    } else {
      cursor.take(value.count * size, what.c_str());
    }
    if (!result.values_.emplace(key, value).second) fail("{}: {} stands twice in the file", where, what);
  }
  result.tensor_list_ = cursor.at();
  const int64_t alignment = result.integer_or("general.alignment", 32);
  if (alignment < 8 || alignment > 1 << 20 || (alignment & (alignment - 1)) != 0) {
    fail("{}: 'general.alignment' is {}, expected a power of two of at least 8", where, alignment);
  }
  result.alignment_ = static_cast<uint64_t>(alignment);
  return result;
}

std::vector<GgufTensor> GgufFile::read_tensors() const {
  Cursor cursor(*file_, tensor_list_);
  const std::string& where = cursor.where();
  std::vector<GgufTensor> tensors;
  std::vector<uint64_t> offsets;
  std::set<std::string> names;
  for (uint64_t i = 0; i < n_tensors_; ++i) {
    tensors.push_back(read_tensor(cursor));
    offsets.push_back(cursor.read<uint64_t>("a tensor's offset"));
    const std::string& name = tensors.back().name;
    if (!names.insert(name).second) fail("{}: tensor {} stands twice in the file", where, quote_name(name));
  }
  const size_t padding = (alignment_ - cursor.at() % alignment_) % alignment_;
  if (!tensors.empty()) cursor.take(padding, "the padding before the data");
  const size_t data_begin = cursor.at(), data_size = cursor.left();

  std::vector<std::pair<uint64_t, uint64_t>> extents;  // begin, end in the data section
  for (size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = tensors[i];
    const GgmlTypeInfo& info = ggml_type_info(tensor.type);
    uint64_t elements = 1;
    for (int64_t dim : tensor.shape) elements *= static_cast<uint64_t>(dim);
    const uint64_t bytes = elements / info.block_elements * info.block_bytes;
    if (offsets[i] % alignment_ != 0) {
      fail("{}: tensor {} begins at byte {} of the data, not at a multiple of {}", where,
           quote_name(tensor.name), offsets[i], alignment_);
    }
    if (offsets[i] > data_size || bytes > data_size - offsets[i]) {
      fail("{}: tensor {} needs {} bytes from byte {} of the data, which has {}; is the file truncated?",
           where, quote_name(tensor.name), bytes, offsets[i], data_size);
    }
    tensor.data = file_->bytes().subspan(data_begin + offsets[i], bytes);
    extents.emplace_back(offsets[i], offsets[i] + bytes);
  }
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].first < extents[i - 1].second) {
      fail("{}: two tensors overlap at byte {} of the data", where, extents[i].first);
    }
  }
  return tensors;
}

void GgufFile::wrong_type(const std::string& key, const char* expected) const {
  fail("{}: metadata '{}' is not {}", file_->path().string(), key, expected);
}

const GgufFile::Value& GgufFile::value(const std::string& key, bool array, const char* expected) const {
  const auto found = values_.find(key);
  if (found == values_.end()) fail("{}: metadata '{}' is missing", file_->path().string(), key);
  if (found->second.array != array) wrong_type(key, expected);
  return found->second;
}

std::string GgufFile::text(const std::string& key) const {
  const Value& v = value(key, false, "a string");
  if (v.type != gguf::kString) wrong_type(key, "a string");
  std::string text(reinterpret_cast<const char*>(v.data) + sizeof(uint64_t), gguf::load<uint64_t>(v.data));
  if (!is_valid_utf8(text)) wrong_type(key, "valid UTF-8");
  return text;
}

std::string GgufFile::text_or(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

int64_t GgufFile::integer(const std::string& key) const {
  const Value& v = value(key, false, "an integer");
  bool fits = true;
  const int64_t result = load_integer(v.type, v.data, fits);
  if (!fits) wrong_type(key, "an integer below 2^63");
  return result;
}

int64_t GgufFile::integer_or(const std::string& key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}

double GgufFile::number(const std::string& key) const {
  const Value& v = value(key, false, "a number");
  if (v.type != gguf::kF32 && v.type != gguf::kF64) wrong_type(key, "a floating-point number");
  const double result =
      v.type == gguf::kF32 ? static_cast<double>(gguf::load<float>(v.data)) : gguf::load<double>(v.data);
  if (!std::isfinite(result)) wrong_type(key, "finite");
  return result;
}

double GgufFile::number_or(const std::string& key, double otherwise) const {
  return has(key) ? number(key) : otherwise;
}

bool GgufFile::flag_or(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const Value& v = value(key, false, "true or false");
  if (v.type != gguf::kBool) wrong_type(key, "true or false");
  return gguf::load<uint8_t>(v.data) != 0;
}

std::vector<std::string_view> GgufFile::texts(const std::string& key) const {
  const Value& v = value(key, true, "an array of strings");
  if (v.type != gguf::kString) wrong_type(key, "an array of strings");
  std::vector<std::string_view> result;
  const std::byte* p = v.data;
  for (uint64_t i = 0; i < v.count; ++i) {
    const uint64_t size = gguf::load<uint64_t>(p);
    result.emplace_back(reinterpret_cast<const char*>(p) + sizeof size, size);
    if (!is_valid_utf8(result.back())) {
      fail("{}: metadata '{}' number {} is not valid UTF-8", file_->path().string(), key, i);
    }
    p += sizeof size + size;
  }
  return result;
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
  const Value& v = value(key, true, "an array of integers");
  bool fits = true;
  std::vector<int64_t> result;
  for (uint64_t i = 0; i < v.count && fits; ++i) {
    result.push_back(load_integer(v.type, v.data + i * scalar_size(v.type), fits));
  }
  if (!fits) wrong_type(key, "an array of integers below 2^63");
  return result;
}

std::vector<float> GgufFile::numbers(const std::string& key) const {
  const Value& v = value(key, true, "an array of numbers");
  if (v.type != gguf::kF32) wrong_type(key, "an array of float32");
  std::vector<float> result;
  for (uint64_t i = 0; i < v.count; ++i) {
    result.push_back(gguf::load<float>(v.data + i * sizeof(float)));
    if (!std::isfinite(result.back())) wrong_type(key, "an array of finite numbers");
  }
  return result;
}

}  // namespace nibble
