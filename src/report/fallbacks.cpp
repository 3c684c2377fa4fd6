#include "report/fallbacks.h"

namespace nibble::report {
namespace {

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

std::vector<Fallback> fallbacks_of(const Json& report) {
  std::vector<Fallback> found;
  if (!report.is_object() || !report.contains("linears") || !report["linears"].is_array()) return found;
  for (const Json& linear : report["linears"]) {
    if (!linear.is_object()) continue;
    Fallback fallback{text_at(linear, "name"), text_at(linear, "fallback"), text_at(linear, "reason")};
    if (!fallback.fallback.empty() || !fallback.reason.empty()) found.push_back(std::move(fallback));
  }
  return found;
}

std::vector<std::string> warnings_of(const Json& report) {
  std::vector<std::string> warnings;
  if (!report.is_object() || !report.contains("warnings") || !report["warnings"].is_array()) return warnings;
  for (const Json& warning : report["warnings"]) {
    if (warning.is_string()) warnings.push_back(warning.get<std::string>());
  }
  return warnings;
}

}  // namespace nibble::report
