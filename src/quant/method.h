// A quantization method: one linear layer in, integers and scales out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/packed.h"

namespace nibble {

struct InverseHessian;
class GptqCard;

// What the calibration text did to one linear input, the same for all linears that read it.
struct InputStatistics {
  int64_t k = 0;
  int64_t tokens = 0;
  std::vector<float> gram;      // [k, k], Σ x·xᵀ over tokens, symmetric; empty where no method wants it
  std::vector<float> mean_abs;  // [k], mean |x|
  std::vector<float> sample;    // [rows, k], some tokens' inputs
  std::vector<float> held_out;  // [rows, k], inputs of text that none of the above has seen; may be empty
  bool finite = true;           // false: NaN or infinity was seen

  // Of the unquantized model's stream, where it runs beside the quantized one (quant/feed_forward.h). r: its
  // input where this one is x; t: what the linear's output should be.
  std::vector<float> drift;               // [k, k], Σ (r − x)·xᵀ
  std::vector<float> pull;                // [n, k], Σ t·xᵀ, of a linear that reads the input alone
  std::vector<float> held_out_reference;  // [rows, k], r of held_out's tokens
  std::vector<float> held_out_target;     // [rows, n], t of held_out's tokens

  GptqCard* card = nullptr;  // what GPTQ runs on (quant/compute.h); null: the processor
  mutable std::shared_ptr<const InverseHessian> inverse;  // quant/inverse_hessian.h keeps its last result

  // What errors are measured on: text held out, or some tokens of the text where none was.
  const std::vector<float>& judge() const { return held_out.empty() ? sample : held_out; }
  double mean_diagonal() const {  // of gram
    double mean = 0;
    for (int64_t i = 0; i < k; ++i)
      mean += double{gram[static_cast<size_t>(i * k + i)]} / static_cast<double>(k);
    return mean;
  }
};

struct MethodOptions {
  PackedFormat format;     // n and k of the layer
  double damp = 0.01;      // GPTQ: share of the mean diagonal added to the Hessian
  bool act_order = false;  // GPTQ: columns by falling diagonal, groups as stored
  bool clip = true;        // GSQ: ranges may be clipped
  bool refine = true;      // GPTQ: coordinate descent on its integers afterwards (quant/refine.h)
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
  bool feeds_forward;  // weights are first corrected for what earlier layers have lost (quant/feed_forward.h)
};

// Registered methods; throws UsageError naming them when there is no such one.
std::span<const Method> methods();
const Method& find_method(std::string_view name);

// ‖(W − Ŵ)·X‖² / ‖W·X‖² over the rows that errors are measured on; 0 when both are 0. `quantized`,
// `weight`: [n, k].
double relative_output_error(std::span<const float> weight, std::span<const float> quantized, int64_t n,
                             const InputStatistics& input, ThreadPool& pool);

std::vector<float> dequantize(const QuantizedMatrix& matrix, ThreadPool& pool);  // [n, k]

}  // namespace nibble
