#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>

#include "base/json.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr const char* kMetadata = "__metadata__";

// Refuses nesting that no header has, and names given twice: readers disagree on which one counts. Anything
// else is the parser's to say.
class HeaderCheck : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderCheck(const std::string& where) : where_(where) {}

  bool key(string_t& name) override {
    if (depth_ > kMaxDepth) too_deep();
    if (depth_ == 1) keys_.clear();
    if (!(depth_ == 1 ? tensor_names_ : keys_).insert(name).second)
      fail("{}: the name {} stands twice in the header", where_, quote_name(name));
    return true;
  }
  bool start_object(size_t) override { return deeper(); }
  bool start_array(size_t) override { return deeper(); }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  static constexpr int kMaxDepth = 2;  // header, tensor, shape
  bool deeper() {
    if (depth_ > kMaxDepth) too_deep();
    return ++depth_, true;
  }
  [[noreturn]] void too_deep() const {
    fail("{}: the header is nested deeper than {} levels", where_, kMaxDepth + 1);
  }

  const std::string& where_;
  int depth_ = 0;
  std::set<std::string> tensor_names_, keys_;
};

Json parse_header(std::string_view text, const std::string& where) {
  HeaderCheck check(where);
  Json::sax_parse(text.begin(), text.end(), &check);
  Json header;
  try {
    header = Json::parse(text.begin(), text.end());
  } catch (const Json::exception& e) {
    fail("{}: the header is not valid JSON: {}; is this a safetensors file?", where, quote_name(e.what()));
  }
  if (!header.is_object()) fail("{}: the header is a JSON {}, expected an object", where, header.type_name());
  return header;
}

uint64_t unsigned_number(const Json& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
    fail("{}: {} holds something that is not a whole number from 0 to 2^63 - 1", where, what);
  }
  return value.get<uint64_t>();
}

struct Entry {
  std::string name;
  TensorView view;
  uint64_t begin, end;  // bytes of the data section
};

Entry read_entry(const std::string& name, const Json& json, const std::string& file, uint64_t data_size) {
  const std::string where = fmt::format("{}: tensor {}", file, quote_name(name));
  if (!json.is_object()) fail("{}: described by a JSON {}, expected an object", where, json.type_name());
  Entry entry{name, {}, 0, 0};
  const std::string dtype = json_get<std::string>(json, "dtype", where);
  try {
    entry.view.dtype = dtype_from_name(dtype);
  } catch (const Error&) {
    fail("{}: its type {} is not supported", where, quote_name(dtype));
  }

  const Json shape = json_get<Json>(json, "shape", where);
  if (!shape.is_array()) fail("{}: 'shape' is a JSON {}, expected an array", where, shape.type_name());
  // The product without the zeros must fit too, so that strides can be computed anywhere.
  uint64_t nonzero_bytes = dtype_size(entry.view.dtype);
  bool empty = false;
  for (const Json& item : shape) {
    const uint64_t dim = unsigned_number(item, where, "'shape'");
    entry.view.shape.push_back(static_cast<int64_t>(dim));
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(nonzero_bytes, dim, &nonzero_bytes) || nonzero_bytes > INT64_MAX) {
      fail("{}: its shape counts more than 2^63 bytes", where);
    }
  }
  const uint64_t bytes = empty ? 0 : nonzero_bytes;

  const Json offsets = json_get<Json>(json, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2) fail("{}: 'data_offsets' is not a pair of numbers", where);
  entry.begin = unsigned_number(offsets[0], where, "'data_offsets'");
  entry.end = unsigned_number(offsets[1], where, "'data_offsets'");
  if (entry.begin > entry.end || entry.end > data_size) {
    fail("{}: its data lies at [{}, {}), outside of the file's {} bytes of data; is the file truncated?",
         where, entry.begin, entry.end, data_size);
  }
  if (entry.end - entry.begin != bytes) {
    fail("{}: {} of shape {} takes {} bytes, but its offsets span {}", where, dtype,
         quote_name(shape_string(entry.view.shape)), bytes, entry.end - entry.begin);
  }
  return entry;
}

void check_tiling(std::vector<Entry>& entries, const std::string& where, uint64_t data_size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin != at) {
      fail("{}: tensor {} begins at byte {} of the data where byte {} was expected: {}", where,
           quote_name(e.name), e.begin, at, e.begin < at ? "tensors overlap" : "there is a hole");
    }
    at = e.end;
  }
  if (at != data_size) {
    fail("{}: the tensors end at byte {} of the data, but the file holds {}", where, at, data_size);
  }
}

size_t tensor_bytes(const StreamedTensor& tensor) {
  return TensorView{tensor.dtype, tensor.shape, nullptr}.bytes();
}

}  // namespace

SafetensorsFile open_safetensors(const std::filesystem::path& path) {
  SafetensorsFile result;
  result.file = MappedFile::open(path);
  const std::string where = path.string();
  const std::span<const std::byte> bytes = result.file->bytes();
  uint64_t header_size = 0;
  if (bytes.size() < sizeof header_size) {
    fail("{}: {} bytes, too few for a safetensors file; is it truncated?", where, bytes.size());
  }
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  if (header_size > kMaxHeader || header_size > bytes.size() - sizeof header_size) {
    fail(
        "{}: its first 8 bytes announce a header of {} bytes, but the file has {} bytes (and {} is the "
        "limit); is it a safetensors file, whole?",
        where, header_size, bytes.size(), kMaxHeader);
  }
  const std::span<const std::byte> data = bytes.subspan(sizeof header_size + header_size);
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof header_size;
  const Json header = parse_header({text, header_size}, where);

  std::vector<Entry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name != kMetadata) {
      entries.push_back(read_entry(name, json, where, data.size()));
      continue;
    }
    if (!json.is_object()) fail("{}: '{}' is a JSON {}, expected an object", where, name, json.type_name());
    for (const auto& [key, value] : json.items()) {
      if (!value.is_string()) fail("{}: '{}' holds {}, which is not a string", where, name, quote_name(key));
      result.metadata[key] = value.get<std::string>();
    }
  }
  check_tiling(entries, where, data.size());

  for (Entry& e : entries) {
    e.view.data = data.data() + e.begin;
    if (reinterpret_cast<uintptr_t>(e.view.data) % dtype_size(e.view.dtype) != 0 && e.end > e.begin) {
      auto copy = std::make_shared<AlignedBuffer<std::byte>>(e.end - e.begin);
      std::memcpy(copy->data(), e.view.data, copy->size());
      e.view.data = copy->data();
      result.buffers.push_back(std::move(copy));
    }
    result.tensors.emplace(e.name, e.view);
  }
  return result;
}

void write_safetensors(const std::filesystem::path& path, const std::vector<StreamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t at = 0;
  std::set<std::string_view> names = {kMetadata};
  for (const StreamedTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      fail("{}: tensor {} cannot be written: the name is taken", path.string(), quote_name(tensor.name));
    }
    const uint64_t end = at + tensor_bytes(tensor);
    header[tensor.name] = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const OrderedJson::exception& e) {
    fail("{}: a tensor name or metadata is not UTF-8: {}", path.string(), quote_name(e.what()));
  }
  const size_t unpadded = sizeof(uint64_t) + text.size();
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  if (text.size() > kMaxHeader) {
    fail("{}: a header of {} bytes; readers accept {}", path.string(), text.size(), kMaxHeader);
  }

  AtomicFile file(path);
  const uint64_t header_size = text.size();
  file.write(&header_size, sizeof header_size);
  file.write(text);
  for (const StreamedTensor& tensor : tensors) {
    size_t written = 0;
    tensor.write([&](const void* data, size_t size) {
      file.write(data, size);
      written += size;
    });
    NIBBLE_CHECK(written == tensor_bytes(tensor));
  }
  file.commit();
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<StreamedTensor> streamed;
  for (const auto& [name, view] : tensors)
    streamed.push_back({name, view.dtype, view.shape,
                        [&view = view](const ByteSink& sink) { sink(view.data, view.bytes()); }});
  write_safetensors(path, streamed, metadata);
}

}  // namespace nibble
