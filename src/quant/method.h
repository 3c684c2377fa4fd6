// A quantization method: one linear layer in, integers and scales out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/packed.h"

namespace nibble {

// What the calibration text did to one linear input, the same for all linears that read it.
struct InputStatistics {
  int64_t k = 0;
  int64_t tokens = 0;
  std::vector<float> gram;      // [k, k], Σ x·xᵀ over tokens, symmetric
  std::vector<float> mean_abs;  // [k], mean |x|
  std::vector<float> sample;    // [rows, k], some tokens' inputs
  bool finite = true;           // false: NaN or infinity was seen
};

struct MethodOptions {
  PackedFormat format;     // n and k of the layer
  double damp = 0.01;      // GPTQ: share of the mean diagonal added to the Hessian
  bool act_order = false;  // GPTQ: columns by falling diagonal, groups as stored
  bool clip = true;        // GSQ: ranges may be clipped
};

// A layer that a method quantized, and what had to be done differently from what was asked.
struct Quantized {
  QuantizedMatrix matrix;
  double damp_used = 0;    // 0: no Hessian was inverted
  std::string note;        // why something else than the method ran; empty: nothing did
  bool fell_back = false;  // to rounding
};

// weight: [n, k] float32, finite. Deterministic for a given number of threads.
using QuantizeFn = Quantized (*)(std::span<const float> weight, const InputStatistics& input,
                                 const MethodOptions& options, ThreadPool& pool);

struct Method {
  std::string_view name;
  std::string_view summary;  // one line for --help
  QuantizeFn quantize;
  bool needs_calibration;
  bool scales_inputs;  // folds per-channel scales into the operation before (quant/scaling.h)
};

// Registered methods; throws UsageError naming them when there is no such one.
std::span<const Method> methods();
const Method& find_method(std::string_view name);

// ‖(W − Ŵ)·X‖² / ‖W·X‖² by the Gram matrix; 0 when both are 0. `quantized`, `weight`: [n, k].
double relative_output_error(std::span<const float> weight, std::span<const float> quantized, int64_t n,
                             const InputStatistics& input, ThreadPool& pool);

std::vector<float> dequantize(const QuantizedMatrix& matrix);  // [n, k]

}  // namespace nibble
