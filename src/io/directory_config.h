// The configuration of a Hugging Face directory: config.json and, of older tools, their quantization beside
// it.
#pragma once

#include <filesystem>

#include "base/json.h"

namespace nibble {

// An object; `quantize_config.json` or `quant_config.json` becomes its "quantization_config" where it has
// none. Throws Error where config.json is missing or one of them is no JSON object.
Json read_directory_config(const std::filesystem::path& directory);

// Whether this is a directory whose configuration says that its weights are quantized, by nibble or another
// tool. Reads nothing else; throws Error as above.
bool says_quantized(const std::filesystem::path& path);

}  // namespace nibble
