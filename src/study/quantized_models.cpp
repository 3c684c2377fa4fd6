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

// What quantizing leaves as it was, but for the rounding to another 16-bit type.
struct Fingerprint {
  std::string architecture;
  std::vector<int> shapes;
  std::vector<float> values;  // rows of the embedding from all over the vocabulary, the last norm
  bool has_embedding = false;
};

Fingerprint fingerprint(const Model& model) {
  constexpr int64_t kRows = 64;
  const ModelConfig& c = model.config;
  Fingerprint print{c.architecture,
                    {c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.hidden_size, c.intermediate_size,
                     c.vocab_size, c.tied_head},
                    model.final_norm.weight,
                    !model.embedding.packed};
  if (!print.has_embedding) return print;
  const DenseView& e = model.embedding.dense;
  const auto* bytes = static_cast<const std::byte*>(e.data);
  for (int64_t i = 0; i < kRows; ++i) {
    const int64_t row = i * e.n / kRows;
    const std::vector<float> values =
        to_float({e.dtype, {e.k}, bytes + static_cast<size_t>(row * e.k) * dtype_size(e.dtype)});
    print.values.insert(print.values.end(), values.begin(), values.end());
  }
  return print;
}

bool same_shapes(const Fingerprint& a, const Fingerprint& b) {
  return a.architecture == b.architecture && a.shapes == b.shapes;
}

bool same_model(const Fingerprint& a, const Fingerprint& b) {
  constexpr float kRounding = 1.0f / 256;        // of bf16, which has 8 bits
  constexpr float kSmallest = 1.0f / (1 << 20);  // fp16 ends near 6e-8
  if (!a.has_embedding || !b.has_embedding || !same_shapes(a, b)) return false;
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(), b.values.end(), [](float x, float y) {
    return std::abs(x - y) <= kRounding * std::max(std::abs(x), std::abs(y)) + kSmallest;
  });
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
