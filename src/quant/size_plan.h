// A plan per linear that loses least within a size, from measured sensitivities.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/analysis.h"
#include "quant/plan.h"

namespace nibble {

struct Choice {
  LayerPlan plan;
  int64_t bytes = 0;
  double loss = 0;  // expected KL of this linear alone
};
struct PlannedLinear {
  std::string name;
  int64_t weights = 0;
  Choice choice;
};
struct SizePlan {
  std::vector<PlannedLinear> linears;
  int64_t bytes = 0;
  double loss = 0;  // sum of the linears'
  double bits_per_weight() const;
};

bool rounds_by_gptq(const std::string& method);  // throws UsageError for a name that is no method's

// What a linear may become: every bits and group size of the analysis, and 16 bits. Its expected KL is the
// KL measured at the probe times the ratio of its output errors, since KL grows with the square of
// a small disturbance as the relative output error does. `method`: of the plans; of one that rounds by GPTQ
// the errors are GPTQ's, which takes more off some linears than off others.
std::vector<Choice> choices_of(const Analysis& analysis, const LinearAnalysis& linear,
                               const std::string& method, int least_bits = 0);

// The least sum of losses within `bytes`: each linear starts at its smallest choice; the step that
// saves most loss a byte is taken first (over the lower convex hull of its choices), as long as it fits;
// what is left is spent on any choice that fits. Never more loss than a uniform plan that fits.
// Fewer than 4 bits, then fewer than 3, are used only where the target cannot be met without (what measured
// better: docs/quantizers.md). Throws Error when not even the smallest choices fit, saying the least size
// that does.
SizePlan solve_plan(const Analysis& analysis, int64_t bytes, const std::string& method);

// A rule for each linear, for Plan::rules and as the TOML that read_plan_rules reads.
std::vector<Plan::Rule> rules_of(const SizePlan& plan);
std::string to_toml(const SizePlan& plan);
OrderedJson to_json(const SizePlan& plan);

}  // namespace nibble
