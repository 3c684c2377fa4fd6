// How much each linear of a model minds being quantized, before anything is quantized for good.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/session.h"
#include "quant/calibration.h"
#include "quant/plan.h"

namespace nibble {

// KL(base ‖ changed) in nats from two rows of logits [vocab] of one position.
using DivergenceFn = std::function<double(std::span<const float> base, std::span<const float> changed)>;
using AnalysisProgress = std::function<void(int done, int total)>;

struct AnalysisOptions {
  std::vector<int> bits = {2, 3, 4, 6, 8};
  std::vector<int> group_sizes = {16, 32, 64, 128};
  bool symmetric = false;
  int scale_bits = 16;                       // of the errors' scales, as in LayerPlan
  LayerPlan probe = {"rtn", 4, 128, false};  // how a linear is quantized, alone, when its KL is taken
  int kl_tokens = 512;                       // in windows of 256, whose second halves are scored; 0: no KL
  bool gptq = true;                          // also the errors of GPTQ, below 8 bits
  bool kl_by_group = true;                   // also of each layer as a whole, at every group size
  void validate() const;                     // throws UsageError
};

struct LinearAnalysis {
  std::string name;
  int layer = 0;
  int64_t n = 0, k = 0;
  std::vector<double> errors;  // relative output error of rounding: [bits][group sizes]
  // The same by GPTQ, from 8 bits up of rounding; empty without options.gptq.
  std::vector<double> gptq_errors;
  double kl = 0;  // of the model with this linear alone at the probe
  double probe_error = 0;
};

struct LayerAnalysis {
  int layer = 0;
  std::vector<double> kl;  // by group size, at the probe's bits; empty without kl_by_group
};

struct Analysis {
  AnalysisOptions options;
  int64_t tokens = 0, kl_positions = 0;
  std::vector<LinearAnalysis> linears;  // in the order of the model
  std::vector<LayerAnalysis> layers;

  // Grows faster with the group than the others: error (or KL) at the largest group size more than
  // kBreaks times that at the smallest.
  static constexpr double kBreaks = 4;
  // Of rounding; by GPTQ where `by_gptq` and measured.
  double error(const LinearAnalysis& linear, int bits, int group_size, bool by_gptq = false) const;
  int shown_bits() const;  // the probe's, or the first where errors at those were not measured
  double growth(const LinearAnalysis& linear) const;  // at shown_bits()
  double growth(const LayerAnalysis& layer) const;    // 0 without KL
};

// Inputs are those of the unquantized model on the calibration text; errors are taken on the last quarter of
// its samples where there are at least 4, which GPTQ does not see then, KL on the last ones. Throws Error for
// a model that is already quantized.
Analysis analyze_model(std::shared_ptr<const Model> model, const Calibration& calibration,
                       const AnalysisOptions& options, const DivergenceFn& divergence, ThreadPool& pool,
                       const AnalysisProgress& progress);

OrderedJson to_json(const Analysis& analysis);
Analysis analysis_from_json(const Json& json, const std::string& where);  // throws Error

}  // namespace nibble
