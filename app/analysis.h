// What `analyze` and `quantize --target-bpw` share: the measurement and its tables.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "options.h"
#include "quant/analysis.h"
#include "quant/size_plan.h"

namespace nibble::app {

inline constexpr int kAnalysisSamples = 32;  // of calibration text, where nothing else is asked for

// The files of --calibration, or the bundled ones (with a word on stderr where MODEL is not a bundled one).
std::vector<std::filesystem::path> calibration_files(const std::vector<std::string>& given,
                                                     const std::string& model);

// Analyzes with progress on stderr; Interrupted ends it.
Analysis analyze(std::shared_ptr<const Model> model, const CalibrationOptions& calibration,
                 const AnalysisOptions& options, ThreadPool& pool);

// Tables for the terminal: by layer, and the linears that break at large groups.
std::string render_analysis(const Analysis& analysis);
// What each kind of linear got, and the plan's size.
std::string render_plan(const SizePlan& plan);

}  // namespace nibble::app
