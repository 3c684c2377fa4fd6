#include "quant/size_plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/methods.h"
#include "tensor/packed.h"

namespace nibble {
namespace {

// Loss saved a byte more; infinite where no byte more is needed.
double gain(const Choice& from, const Choice& to) {
  const int64_t more = to.bytes - from.bytes;
  if (to.loss >= from.loss) return 0;
  return more > 0 ? (from.loss - to.loss) / static_cast<double>(more) : INFINITY;
}

// Choices on the lower convex hull of loss over bytes, the smallest first.
std::vector<Choice> hull_of(std::vector<Choice> choices) {
  std::sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss;
  });
  std::vector<Choice> hull;
  for (const Choice& c : choices) {
    if (!hull.empty() && (c.loss >= hull.back().loss || c.bytes == hull.back().bytes)) continue;
    while (hull.size() >= 2 && gain(hull[hull.size() - 2], hull.back()) <= gain(hull.back(), c))
      hull.pop_back();
    hull.push_back(c);
  }
  return hull;
}

void add(SizePlan& plan, const LinearAnalysis& linear, const Choice& choice) {
  plan.linears.push_back({linear.name, linear.n * linear.k, choice});
  plan.bytes += choice.bytes;
  plan.loss += choice.loss;
}

void choose(SizePlan& plan, size_t linear, const Choice& to) {
  Choice& now = plan.linears[linear].choice;
  plan.bytes += to.bytes - now.bytes;
  now = to;
  plan.loss = 0;
  for (const PlannedLinear& l : plan.linears) plan.loss += l.choice.loss;
}

SizePlan plan_over_hulls(const Analysis& analysis, const std::vector<std::vector<Choice>>& choices,
                         int64_t bytes) {
  SizePlan plan;
  struct Step {
    size_t linear, index;  // to hull[index]
    double gain;
  };
  std::vector<std::vector<Choice>> hulls;
  for (size_t l = 0; l < choices.size(); ++l) {
    hulls.push_back(hull_of(choices[l]));
    add(plan, analysis.linears[l], hulls.back().front());
  }
  if (plan.bytes > bytes)
    fail("the linear layers take at least {} bytes, {:.3f} bits a weight; {} were given", plan.bytes,
         plan.bits_per_weight(), bytes);
  std::vector<Step> steps;
  for (size_t l = 0; l < hulls.size(); ++l) {
    for (size_t i = 1; i < hulls[l].size(); ++i) steps.push_back({l, i, gain(hulls[l][i - 1], hulls[l][i])});
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  // A step that does not fit may be followed by a smaller one of another linear that does.
  std::vector<size_t> at(hulls.size(), 0);
  for (const Step& step : steps) {
    if (at[step.linear] + 1 != step.index) continue;
    const Choice& to = hulls[step.linear][step.index];
    if (plan.bytes + to.bytes - plan.linears[step.linear].choice.bytes > bytes) continue;
    choose(plan, step.linear, to);
    at[step.linear] = step.index;
  }
  return plan;
}

// What is left of the bytes, spent on any choice that fits, on a hull or not, the best gain a byte first.
void fill(SizePlan& plan, const std::vector<std::vector<Choice>>& choices, int64_t bytes) {
  for (;;) {
    size_t linear = 0;
    const Choice* to = nullptr;
    double most = 0;
    for (size_t l = 0; l < choices.size(); ++l) {
      const Choice& now = plan.linears[l].choice;
      for (const Choice& c : choices[l]) {
        if (plan.bytes + c.bytes - now.bytes > bytes || gain(now, c) <= most) continue;
        most = gain(now, c);
        linear = l;
        to = &c;
      }
    }
    if (!to) return;
    choose(plan, linear, *to);
  }
}

std::string pattern_of(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern + "$";
}

}  // namespace

double SizePlan::bits_per_weight() const {
  int64_t weights = 0;
  for (const PlannedLinear& l : linears) weights += l.weights;
  return static_cast<double>(bytes) * 8 / static_cast<double>(std::max<int64_t>(1, weights));
}

bool rounds_by_gptq(const std::string& method) { return find_method(method).quantize == quantize_gptq; }

std::vector<Choice> choices_of(const Analysis& a, const LinearAnalysis& linear, const std::string& method,
                               int least_bits) {
  const bool by_gptq = rounds_by_gptq(method);
  std::vector<Choice> choices;
  for (const int bits : a.options.bits) {
    if (bits < least_bits) continue;
    for (const int group : a.options.group_sizes) {
      const LayerPlan plan{method, bits, group, a.options.symmetric, a.options.scale_bits};
      const double error = a.error(linear, bits, group, by_gptq);
      choices.push_back({plan, plan.format(linear.n, linear.k).bytes(),
                         linear.probe_error > 0 ? linear.kl * error / linear.probe_error : error});
    }
  }
  choices.push_back({{method, 16, 0, a.options.symmetric, a.options.scale_bits}, linear.n * linear.k * 2, 0});
  return choices;
}

SizePlan solve_plan(const Analysis& analysis, int64_t bytes, const std::string& method) {
  std::vector<std::vector<Choice>> choices;
  for (const int least_bits : {4, 3, 0}) {
    choices.clear();
    int64_t least = 0;
    for (const LinearAnalysis& linear : analysis.linears) {
      choices.push_back(choices_of(analysis, linear, method, least_bits));
      const auto smallest =
          std::min_element(choices.back().begin(), choices.back().end(),
                           [](const Choice& x, const Choice& y) { return x.bytes < y.bytes; });
      least += smallest->bytes;
    }
    if (least <= bytes) break;
  }
  SizePlan best = plan_over_hulls(analysis, choices, bytes);
  fill(best, choices, bytes);
  // Uniform plans are starts too: where steps of the hull are wide, one of them can lose less.
  for (size_t i = 0; !choices.empty() && i < choices[0].size(); ++i) {
    SizePlan plan;
    for (size_t l = 0; l < choices.size(); ++l) add(plan, analysis.linears[l], choices[l][i]);
    if (plan.bytes > bytes) continue;
    fill(plan, choices, bytes);
    if (plan.loss < best.loss) best = std::move(plan);
  }
  return best;
}

std::vector<Plan::Rule> rules_of(const SizePlan& plan) {
  std::vector<Plan::Rule> rules;
  for (const PlannedLinear& l : plan.linears) {
    const LayerPlan& p = l.choice.plan;
    Plan::Rule& rule = rules.emplace_back(pattern_of(l.name));
    rule.method = p.method;
    rule.bits = p.bits;
    rule.group_size = p.group_size;
    rule.symmetric = p.symmetric;
    rule.scale_bits = p.scale_bits;
  }
  return rules;
}

std::string to_toml(const SizePlan& plan) {
  std::string text;
  for (const PlannedLinear& l : plan.linears) {
    const LayerPlan& p = l.choice.plan;
    text += fmt::format(
        "[[rule]]\npattern = '{}'\nmethod = \"{}\"\nbits = {}\ngroup_size = {}\nsymmetric = {}\n"
        "scale_bits = {}\n\n",
        pattern_of(l.name), p.method, p.bits, p.group_size, p.symmetric, p.scale_bits);
  }
  return text;
}

OrderedJson to_json(const SizePlan& plan) {
  OrderedJson linears = OrderedJson::array();
  for (const PlannedLinear& l : plan.linears)
    linears.push_back({{"name", l.name},
                       {"bits", l.choice.plan.bits},
                       {"group_size", l.choice.plan.group_size},
                       {"scale_bits", l.choice.plan.scale_bits},
                       {"bytes", l.choice.bytes},
                       {"expected_kl", l.choice.loss}});
  return {{"bytes", plan.bytes},
          {"bits_per_weight", plan.bits_per_weight()},
          {"expected_kl", plan.loss},
          {"linears", linears}};
}

}  // namespace nibble
