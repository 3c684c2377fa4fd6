#include "export_summary.h"

#include "report/format.h"

namespace nibble::app {

std::string export_summary(const ConvertReport& report, const std::string& out, const std::string& format) {
  std::string text =
      fmt::format("{}: {}, {} MB\n", out, format, report::megabytes(static_cast<double>(report.file_bytes)));
  for (const auto& [type, count] : report.types) text += fmt::format("  {:>4} × {}\n", count, type);
  for (const std::string& name : report.dequantized) text += fmt::format("  dequantized: {}\n", name);
  return text;
}

OrderedJson export_json(const ConvertReport& report, const std::string& out, const std::string& format) {
  return {{"out", out},
          {"format", format},
          {"file_bytes", report.file_bytes},
          {"weights", report.types},
          {"dequantized", report.dequantized}};
}

}  // namespace nibble::app
