#include "report/measures.h"

#include <algorithm>

#include "eval/statistics.h"

namespace nibble::report {

double other_bytes(const MemoryBytes& memory) {
  const double parts = static_cast<double>(memory.weights) + static_cast<double>(memory.kv_cache) +
                       static_cast<double>(memory.workspace);
  return std::max(0.0, static_cast<double>(memory.peak_rss) - parts);
}

const MemoryBytes* bench_memory(const VariantView& variant) {
  const TaskView* bench = variant.find(kBench);
  return bench && bench->memory ? &*bench->memory : nullptr;
}

const Json* bench_test(const VariantView& variant, std::string_view prefix) {
  const TaskView* bench = variant.find(kBench);
  if (!bench || !bench->bench.is_array()) return nullptr;
  const Json* best = nullptr;
  int64_t best_batch = 0;
  for (const Json& entry : bench->bench) {
    if (!entry.is_object() || !entry.contains("test") || !entry["test"].is_string()) continue;
    if (!entry["test"].get_ref<const std::string&>().starts_with(prefix)) continue;
    const int64_t batch = json_get_or<int64_t>(entry, "batch", 1, "bench");
    if (best && batch >= best_batch) continue;
    best = &entry;
    best_batch = batch;
  }
  return best;
}

std::optional<Distance> distance_of(const VariantView& variant) {
  const TaskView* cell = variant.find(kDistance);
  if (!cell || !cell->distance.is_object()) return std::nullopt;
  const Json kl = json_get<Json>(cell->distance, "kl", kDistance);
  const double mean = number_from_json(kl, "mean", kDistance);
  const double error = kZ975 * number_from_json(kl, "stderr", kDistance);
  return Distance{mean, std::max(0.0, mean - error), mean + error,
                  number_from_json(cell->distance, "top1_agreement", kDistance),
                  json_get_or<int64_t>(cell->distance, "tokens", 0, kDistance)};
}

std::optional<Rate> bench_rate(const VariantView& variant, std::string_view prefix) {
  const Json* test = bench_test(variant, prefix);
  if (!test || !test->contains("tokens_per_s")) return std::nullopt;
  const Json& rate = test->at("tokens_per_s");
  return Rate{json_get<double>(rate, "mean", "bench"), json_get_or<double>(rate, "sd", 0, "bench")};
}

}  // namespace nibble::report
