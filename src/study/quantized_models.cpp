#include "study/quantized_models.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/directory_config.h"
#include "model/facts.h"
#include "model/model.h"

namespace nibble {
namespace {

using Locate = std::function<std::filesystem::path(const std::string&)>;

// What quantizing leaves as it was, but for rounding.
struct Fingerprint {
  std::string architecture;
  std::vector<int> shapes;
  std::vector<float> norm;       // the last one
  std::vector<float> embedding;  // rows from all over the vocabulary
  int embedding_bits = 16;
};

Fingerprint fingerprint(const Model& model) {
  constexpr int64_t kRows = 64;
  const ModelConfig& c = model.config;
  Fingerprint print{c.architecture,
                    {c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.hidden_size, c.intermediate_size,
                     c.vocab_size, c.tied_head},
                    model.final_norm.weight,
                    {},
                    model.embedding.packed ? model.embedding.packed->format.bits : 16};
  std::vector<float> values(static_cast<size_t>(c.hidden_size));
  for (int64_t i = 0; i < kRows; ++i) {
    model.embedding.row(i * model.embedding.n / kRows, values.data());
    print.embedding.insert(print.embedding.end(), values.begin(), values.end());
  }
  return print;
}

bool same_shapes(const Fingerprint& a, const Fingerprint& b) {
  return a.architecture == b.architecture && a.shapes == b.shapes;
}

bool near(const std::vector<float>& a, const std::vector<float>& b) {
  constexpr float kRounding = 1.0f / 256;        // of bf16, which has 8 bits
  constexpr float kSmallest = 1.0f / (1 << 20);  // fp16 ends near 6e-8
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::abs(x - y) <= kRounding * std::max(std::abs(x), std::abs(y)) + kSmallest;
  });
}

bool same_model(const Fingerprint& base, const Fingerprint& quantized) {
  if (!same_shapes(base, quantized) || !near(base.norm, quantized.norm)) return false;
  if (quantized.embedding_bits == 16) return near(base.embedding, quantized.embedding);
  // Rounded in groups, the embedding has a relative error of some 2^(1 − bits); another training's is
  // above 1.
  double error = 0, square = 0;
  for (size_t i = 0; i < base.embedding.size(); ++i) {
    error += std::pow(base.embedding[i] - quantized.embedding[i], 2);
    square += std::pow(base.embedding[i], 2);
  }
  return error <= square * std::pow(std::min(1.0, std::ldexp(4, -quantized.embedding_bits)), 2);
}

std::string format_of(const QuantizedModel& q) {
  return fmt::format("{} {}-bit {}", q.method, q.bits,
                     q.group_size == 0 ? "row" : fmt::format("g{}", q.group_size));
}

// The path, or none where there is no such model; what then runs says so.
std::optional<std::filesystem::path> path_of(const std::string& model, const Locate& locate) {
  try {
    return locate(model);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// Fills in what the files say, which must be what the plan says where it says something.
Fingerprint look_at(QuantizedModel& q, const std::filesystem::path& path) {
  const Model model(open_checkpoint(path, GgufDType::kBF16, false));
  const OrderedJson summary = quantization_summary(model);
  if (summary.is_null()) throw UsageError(fmt::format("{}: no linear of it is quantized", q.model));
  QuantizedModel found = q;
  found.method = summary.at("method").get<std::string>();
  found.bits = summary.at("bits").get<int>();
  found.group_size = summary.at("group_size").get<int>();
  if (!q.method.empty() && found != q)
    throw UsageError(fmt::format("[[quantized]] {}: the plan says {}, its files {}", q.model, format_of(q),
                                 format_of(found)));
  q = found;
  return fingerprint(model);
}

}  // namespace

void describe_quantized(StudyPlan& plan, const Locate& locate) {
  std::map<std::string, std::filesystem::path> paths;
  for (const std::string& model : plan.models) {
    if (const auto path = path_of(model, locate)) paths[model] = *path;
  }
  for (auto model = plan.models.begin(); model != plan.models.end();) {
    const auto path = paths.find(*model);
    if (path == paths.end() || !says_quantized(path->second)) {
      ++model;
      continue;
    }
    plan.quantized.push_back({*model, "", "", 0, 0});
    model = plan.models.erase(model);
  }
  if (plan.quantized.empty()) return;

  std::vector<std::pair<std::string, Fingerprint>> bases;
  for (const std::string& model : plan.models) {
    if (const auto path = paths.find(model); path != paths.end())
      bases.emplace_back(model, fingerprint(Model(open_checkpoint(path->second, GgufDType::kBF16, false))));
  }
  for (QuantizedModel& q : plan.quantized) {
    const Fingerprint print = look_at(q, locate(q.model));
    std::vector<std::string> fit;
    for (const auto& [name, base] : bases) {
      if (q.of.empty() ? same_model(base, print) : name == q.of && same_shapes(base, print))
        fit.push_back(name);
    }
    if (fit.empty() && !q.of.empty())
      throw UsageError(fmt::format("[[quantized]] {}: {} has other shapes and cannot be what it was made of",
                                   q.model, q.of));
    if (fit.size() > 1)
      throw UsageError(fmt::format(
          "{}: {} could each be what it was made of; say it in the study file: [[quantized]] model = \"…\", "
          "of = \"…\"",
          q.model, fmt::join(fit, " and ")));
    if (!fit.empty()) q.of = fit.front();
  }
}

std::string description(const QuantizedModel& q) {
  return fmt::format("{}: {}, quantized before: measured as it is, {}", q.model, format_of(q),
                     q.of.empty() ? "compared with nothing, since its unquantized model is not in the study"
                                  : "against " + q.of);
}

}  // namespace nibble
