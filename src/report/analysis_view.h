// How sensitive each layer of a model is, as `nibble analyze` stored it in results.db.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace nibble::report {

struct AnalyzedLinear {
  std::string name;
  int layer = 0;
  double kl = 0;               // nats, when it alone is rounded as the probe says; NaN: not measured
  std::vector<double> errors;  // relative output error by choice
};

struct AnalysisView {
  struct Choice {
    int bits = 0, group_size = 0;
    std::string label() const;  // "4-bit g64"
    std::string key() const;    // "b4.g64"
  };
  Choice probe;
  bool symmetric = false;
  int64_t tokens = 0, kl_positions = 0;  // calibration tokens; positions of the KL, 0: none
  std::vector<Choice> choices;           // bits × group sizes
  std::vector<AnalyzedLinear> linears;   // in the order of the model
  std::vector<int> group_sizes;          // of the layers' KL; empty: not measured
  struct Layer {
    int layer = 0;
    std::vector<double> kl;  // by group size, at the probe's bits, when this layer alone is rounded
  };
  std::vector<Layer> layers;

  bool has_kl() const { return kl_positions > 0; }
  std::string probe_text() const;  // "4-bit g128, with zero points"
};

// Throws Error when it is not what `nibble analyze --out` writes (docs/results.md).
AnalysisView read_analysis(const Json& analysis, const std::string& where);

struct StoredAnalysis {
  std::optional<AnalysisView> view;
  std::string missing;  // why there is none
};
// Of what the database holds for a model; null: nothing. What cannot be read is missing, and said to be
// damaged.
StoredAnalysis stored_analysis(const std::string& model, const Json& analysis);

}  // namespace nibble::report
