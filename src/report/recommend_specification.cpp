#include "report/recommend_specification.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <charconv>

#include "base/error.h"
#include "report/format.h"

namespace nibble::report {
namespace {

struct UnitName {
  const char* name;  // in lower case
  double factor;
};

constexpr UnitName kBytes[] = {
    {"", 1},         {"b", 1},           {"k", 1e3},           {"kb", 1e3}, {"m", 1e6},
    {"mb", 1e6},     {"g", 1e9},         {"gb", 1e9},          {"t", 1e12}, {"tb", 1e12},
    {"kib", 1024.0}, {"mib", 1048576.0}, {"gib", 1073741824.0}};
constexpr UnitName kTimes[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"us", 0.001}, {"min", 60000}};
constexpr UnitName kShares[] = {{"", 1}, {"%", 0.01}};
constexpr UnitName kPlain[] = {{"", 1}};

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

double parse(std::string_view option, std::string_view text, std::span<const UnitName> units,
             std::string_view example) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit;
  for (const char* c = rest; c != text.data() + text.size(); ++c) {
    if (*c != ' ') unit += static_cast<char>(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
  }
  const auto known =
      std::find_if(units.begin(), units.end(), [&](const UnitName& u) { return unit == u.name; });
  if (error != std::errc() || known == units.end()) {
    refuse("{}: '{}' is not understood; write it like {}", option, one_line(text), example);
  }
  value *= known->factor;
  if (!std::isfinite(value) || value <= 0) refuse("{}: '{}' is not above 0", option, one_line(text));
  return value;
}

}  // namespace

double parse_bytes(std::string_view option, std::string_view text) {
  return parse(option, text, kBytes, "600MB, 1.5GB or 512MiB");
}

double parse_bandwidth(std::string_view option, std::string_view text) {
  std::string_view bytes = text;
  if (bytes.ends_with("/s")) bytes.remove_suffix(2);
  return parse(option, bytes, kBytes, "50GB/s");
}

double parse_milliseconds(std::string_view option, std::string_view text) {
  return parse(option, text, kTimes, "200ms or 1.5s");
}

double parse_share(std::string_view option, std::string_view text) {
  const double share = parse(option, text, kShares, "98% or 0.98");
  if (share > 1) refuse("{}: '{}' is above 100 %; write it like 98% or 0.98", option, one_line(text));
  return share;
}

double parse_number(std::string_view option, std::string_view text) {
  return parse(option, text, kPlain, "20");
}

Prefer parse_prefer(std::string_view option, std::string_view text) {
  for (const Prefer prefer : {Prefer::kSize, Prefer::kMemory, Prefer::kSpeed}) {
    if (text == prefer_name(prefer)) return prefer;
  }
  refuse("{}: '{}' is not understood; size, memory or speed", option, one_line(text));
}

std::string_view prefer_name(Prefer prefer) {
  return prefer == Prefer::kSize ? "size" : prefer == Prefer::kMemory ? "memory" : "speed";
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e10) return fixed(bytes / 1e9, 1) + " GB";
  if (bytes >= 1e9) return fixed(bytes / 1e9, 2) + " GB";
  return bytes == std::round(bytes / 1e6) * 1e6 ? fixed(bytes / 1e6, 0) + " MB" : megabytes(bytes) + " MB";
}

void Specification::validate() const {
  if (max_perplexity_ratio && *max_perplexity_ratio < 1)
    refuse("--max-perplexity-ratio: {} is below 1, the baseline's own", *max_perplexity_ratio);
  if (!(tolerance > 0 && tolerance < 1)) refuse("--tolerance: not between 0 % and 100 %");
  if (other_machine() && max_latency) {
    refuse(
        "--max-latency: the time of a response depends on another machine's processor, of which nothing here "
        "tells; measure there, or leave --bandwidth and --memory out");
  }
  if (memory && !bandwidth && min_throughput)
    refuse("--min-throughput: with --memory, say --bandwidth too: speed is predicted from it");
}

}  // namespace nibble::report
