// Writes a quantized model in the formats of other software: integers, scales and zero points as they are,
// never rounded again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/model.h"

namespace nibble {

enum class ExportFormat { kNibble, kGptq, kGptqV2, kAwq, kCompressedTensors, kGguf };
ExportFormat export_format(const std::string& name);  // throws UsageError naming those that exist
std::vector<std::string> export_format_names();       // "nibble", "gptq", …
std::string export_format_name(ExportFormat format);

struct ConvertOptions {
  ExportFormat to = ExportFormat::kNibble;
  bool dequantize = false;  // weights that the format cannot say as F16, rounded
  bool force = false;       // write over OUT
};

struct ConvertReport {
  uint64_t file_bytes = 0;
  std::map<std::string, int> types;      // weights of linears by what was written: {"gptq 4-bit g64": 42}
  std::vector<std::string> dequantized;  // names of those that lost their packed form
};

// OUT: a directory; for GGUF a file. What the format cannot say is refused before anything is written: an
// Error that names the layer, why, and the option that helps.
ConvertReport convert_model(const Model& model, const ConvertOptions& options,
                            const std::filesystem::path& out);

}  // namespace nibble
