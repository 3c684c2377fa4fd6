// JSON with errors that name the file and the key.
#pragma once

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace nibble {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps the order of insertion: reports, outputs

// Parses text; `where` (a file's name) stands in the error. Nesting past 64 levels is an error.
Json parse_json(std::string_view text, std::string_view where);
Json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 28);

// The same of a file whose value is an object.
Json read_json_object(const std::filesystem::path& path);

// One object a line; blank lines are skipped; the error names the line.
std::vector<Json> read_json_lines(const std::filesystem::path& path);

// Whether a number is a T: whole, where T is, and within its range. (nlohmann's own conversion casts whatever
// comes.)
template <typename T>
bool json_fits(const Json& value) {
  if constexpr (std::is_same_v<T, Json>) {
    return true;
  } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>) {
    if (value.is_number_unsigned()) return std::in_range<T>(value.get<uint64_t>());
    if (value.is_number_integer()) return std::in_range<T>(value.get<int64_t>());
    if (value.is_number_float()) {
      const double number = value.get<double>();
      constexpr double kWhole = 9007199254740992.0;  // up to here a double says every whole number
      return number >= -kWhole && number <= kWhole && number == std::floor(number) &&
             std::in_range<T>(static_cast<int64_t>(number));
    }
  } else if constexpr (requires { typename T::value_type; }) {  // of a list each
    for (size_t i = 0; value.is_array() && i < value.size(); ++i)
      if (!json_fits<typename T::value_type>(value[i])) return false;
  }
  return true;
}

// object[key] as T; throws Error naming `where` and the key when missing, of another type or out of T's
// range.
template <typename T>
T json_get(const Json& object, const char* key, std::string_view where) {
  if (!object.is_object() || !object.contains(key)) fail("{}: '{}' is missing", where, key);
  if (!json_fits<T>(object.at(key))) fail("{}: '{}' is no number that can stand here", where, key);
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
