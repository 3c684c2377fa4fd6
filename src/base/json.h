// JSON with errors that name the file and the key.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nibble {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps the order of insertion: reports, outputs

// Parses text; `where` (a file's name) stands in the error. Nesting past 64 levels is an error.
Json parse_json(std::string_view text, std::string_view where);
Json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 28);

// One object a line; blank lines are skipped; the error names the line.
std::vector<Json> read_json_lines(const std::filesystem::path& path);

// object[key] as T; throws Error naming `where` and the key when missing or of another type.
template <typename T>
T json_get(const Json& object, const char* key, std::string_view where) {
  if (!object.is_object() || !object.contains(key)) fail("{}: '{}' is missing", where, key);
  try {
    return object.at(key).get<T>();
  } catch (const Json::exception&) {
    fail("{}: '{}' has the wrong type ({})", where, key, object.at(key).type_name());
  }
}

// The same with a default for a key that is missing or null.
template <typename T>
T json_get_or(const Json& object, const char* key, T otherwise, std::string_view where) {
  if (!object.is_object() || !object.contains(key) || object.at(key).is_null()) return otherwise;
  return json_get<T>(object, key, where);
}

}  // namespace nibble
