#include "io/directory_config.h"

#include <system_error>

#include "base/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// Older tools left their quantization beside config.json.
void add_separate_quantization(const fs::path& directory, Json& config) {
  if (config.contains("quantization_config")) return;
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    std::error_code error;
    if (!fs::exists(directory / name, error)) continue;
    Json quantization = read_json_object(directory / name);
    if (!quantization.contains("quant_method"))
      quantization["quant_method"] = quantization.contains("w_bit") ? "awq" : "gptq";
    config["quantization_config"] = std::move(quantization);
    return;
  }
}

}  // namespace

Json read_directory_config(const fs::path& directory) {
  Json config = read_json_object(directory / "config.json");
  add_separate_quantization(directory, config);
  return config;
}

bool says_quantized(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return false;
  const Json config = read_directory_config(path);
  const auto found = config.find("quantization_config");
  return found != config.end() && found->is_object();
}

}  // namespace nibble
