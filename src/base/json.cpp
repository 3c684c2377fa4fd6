#include "base/json.h"

#include <algorithm>

#include "base/file.h"

namespace nibble {
namespace {

// The deepest nesting of brackets outside of strings. (The parser's own callback would tell it, but makes an
// array of n objects cost n².)
int nesting_of(std::string_view text) {
  int depth = 0, deepest = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
      case '"':
        for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\';
        break;
      case '[':
      case '{':
        deepest = std::max(deepest, ++depth);
        break;
      case ']':
      case '}':
        --depth;
        break;
      default:
        break;
    }
  }
  return deepest;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  constexpr int kMaxDepth = 64;
  if (nesting_of(text) > kMaxDepth) fail("{}: JSON nested deeper than {} levels", where, kMaxDepth);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& e) {
    std::string what = e.what();
    for (char& c : what) {
      if (static_cast<unsigned char>(c) < 32) c = ' ';
    }
    fail("{}: not valid JSON: {}", where, what.substr(0, 200));
  }
}

Json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

Json read_json_object(const std::filesystem::path& path) {
  Json json = read_json_file(path);
  if (!json.is_object()) fail("{}: a JSON {}, expected an object", path.string(), json.type_name());
  return json;
}

std::vector<Json> read_json_lines(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<Json> rows;
  size_t begin = 0;
  for (size_t line = 1; begin < text.size(); ++line) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    const std::string_view row(text.data() + begin, end - begin);
    if (row.find_first_not_of(" \t\r") != std::string_view::npos) {
      rows.push_back(parse_json(row, fmt::format("{} line {}", path.string(), line)));
      if (!rows.back().is_object()) fail("{} line {}: not a JSON object", path.string(), line);
    }
    begin = end + 1;
  }
  return rows;
}

}  // namespace nibble
