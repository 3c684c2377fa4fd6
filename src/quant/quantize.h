// From a model to a nibble directory: packed weights, configuration, tokenizer, report.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "model/model.h"
#include "quant/block_quantizer.h"
#include "quant/size_plan.h"

namespace nibble {

inline constexpr const char* kQuantizationReport = "quantization_report.json";

struct QuantizeOptions {
  Plan plan;
  LayerOptions layer;
  CalibrationOptions calibration;   // not read when no layer's method needs it
  int head_bits = 8;                // embedding and head: 2, 3, 4, 6, 8, or 16 to leave them
  std::optional<SizePlan> planned;  // what the plan's rules were solved from, for the report
  Device device = Device::kCpu;
  bool to_complete = false;  // the result is worked on further: complete_quantized() will complete it
  std::string version;       // of this program, for the report
  void validate() const;     // throws UsageError
};

// Bytes of the weights' file that no plan of the linears changes: embedding, head, norms, biases, and what
// describes the tensors.
int64_t bytes_beside_linears(const Model& model, const QuantizeOptions& options);

// Quantizes `model` and writes the directory `out`, which must not exist unless `force`. Blocks that
// are done are kept in its folder "unfinished" until all are: the same call again goes on from there, with or
// without `force`, and gives the same result. A failure leaves no quantization_report.json there. Returns the
// report, as written (docs/results.md).
OrderedJson quantize_model(std::shared_ptr<const Model> model, const QuantizeOptions& options,
                           const std::filesystem::path& out, bool force, ThreadPool& pool,
                           const BlockProgress& progress);

// The report of a directory that quantize_model() wrote, complete or not. It is to be completed from then on.
OrderedJson reopen_quantized(const std::filesystem::path& dir);
void complete_quantized(const std::filesystem::path& dir, const OrderedJson& report);

}  // namespace nibble
