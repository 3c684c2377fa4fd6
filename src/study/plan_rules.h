// The rules for single values of a plan, the same for a study file and for the command line. `key` stands
// in the error: the bare name, or file, line and name. For plan.cpp and plan_file.cpp only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "eval/task.h"
#include "io/quote_name.h"
#include "quant/method.h"
#include "study/plan.h"
#include "tensor/packed.h"

namespace nibble::plan_rules {

inline constexpr int kSmallestKlWindow = 4;  // tokens (comparison_windows)
inline constexpr int kMaxInt = std::numeric_limits<int>::max();

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(on_one_line(fmt::format(format, std::forward<Args>(args)...)));  // it may quote the file
}

inline void check_range(std::string_view key, int64_t value, int64_t low, int64_t high) {
  if (value < low) refuse("{}: {} is below {}", key, value, low);
  if (value > high) refuse("{}: {} is above {}", key, value, high);
}

inline void check_bits(std::string_view key, int64_t bits) {
  if (!is_packed_bits(bits)) refuse("{}: {}; 2, 3, 4, 6 or 8 are possible", key, bits);
}

inline void check_group_size(std::string_view key, int64_t size) {
  if (size != 0 && (size < 2 || size > 65536)) {
    refuse("{}: {}; 2 to 65536 are possible, or 0 for a whole row", key, size);
  }
}

inline void check_name(std::string_view key, const std::string& name, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    refuse("{}: '{}' is unknown; known are {}", key, name, fmt::join(known, ", "));
  }
}

// The names of a registry's entries.
template <typename Entries>
std::vector<std::string> names_of(const Entries& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.emplace_back(entry.name);
  return names;
}

inline void check_method(std::string_view key, const std::string& name) {
  if (name == "baseline") refuse("{}: 'baseline' need not be named, it is in every study", key);
  check_name(key, name, names_of(methods()));
}

inline void check_task(std::string_view key, const std::string& name) {
  if (name == kBench) refuse("{}: 'bench' need not be named, it follows the tasks", key);
  if (name == kDistance) refuse("{}: 'kl' need not be named, it follows wikitext", key);
  check_name(key, name, names_of(all_tasks()));
}

inline void check_dtype(std::string_view key, const std::string& dtype) {
  check_name(key, dtype, {"float32", "bfloat16"});
}

inline void check_device(std::string_view key, const std::string& device) {
  check_name(key, device, {"cpu", "cuda"});
}

template <typename T>
void check_no_repeats(std::string_view key, const std::vector<T>& values) {
  std::set<T> seen;
  for (const T& value : values) {
    if (!seen.insert(value).second) refuse("{}: {} stands there twice", key, value);
  }
}

inline void check_not_empty(const std::string& place, const std::string& text) {
  if (text.empty()) refuse("{}: empty", place);
}

}  // namespace nibble::plan_rules
