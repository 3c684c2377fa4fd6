// What an export wrote, for `convert` and `quantize --format`.
#pragma once

#include <string>

#include "base/json.h"
#include "convert/convert.h"

namespace nibble::app {

std::string export_summary(const ConvertReport& report, const std::string& out, const std::string& format);
OrderedJson export_json(const ConvertReport& report, const std::string& out, const std::string& format);

}  // namespace nibble::app
