#include "quant/plan.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file.h"
#include "io/quote_name.h"
#include "io/toml.h"
#include "quant/method.h"

namespace nibble {
namespace {

void check_layer(const LayerPlan& layer, const std::string& where) {
  find_method(layer.method);
  if (layer.bits != 16 && !is_packed_bits(layer.bits))
    throw UsageError(fmt::format("{}: {} bits; 2, 3, 4, 6, 8 and 16 are possible", where, layer.bits));
  if (layer.group_size < 0 || layer.group_size % 16 != 0)
    throw UsageError(fmt::format("{}: group size {}; multiples of 16 are possible, or 0 for the whole row",
                                 where, layer.group_size));
  if (layer.scale_bits != 8 && layer.scale_bits != 16)
    throw UsageError(fmt::format("{}: scales of {} bits; 8 and 16 are possible", where, layer.scale_bits));
  if (layer.scale_bits == 8 && layer.symmetric)
    throw UsageError(fmt::format("{}: scales of 8 bits have no sign, which symmetric groups need", where));
}

void change(LayerPlan& layer, const Plan::Rule& rule) {
  if (rule.method) layer.method = *rule.method;
  if (rule.bits) layer.bits = *rule.bits;
  if (rule.group_size) layer.group_size = *rule.group_size;
  if (rule.symmetric) layer.symmetric = *rule.symmetric;
  if (layer.symmetric) layer.scale_bits = 16;
  if (rule.scale_bits) layer.scale_bits = *rule.scale_bits;
}

template <typename T>
std::optional<T> take(const toml::table& table, const char* key, const std::string& where) {
  const auto node = table[key];
  if (!node) return std::nullopt;
  const auto value = node.value<T>();
  if (!value) throw UsageError(fmt::format("{}: '{}' has the wrong type", where, key));
  return value;
}

}  // namespace

Plan::Rule::Rule(std::string_view text, std::string_view where)
    : pattern(text), name(text, where, NamePattern::At::kAnywhere) {}

PackedFormat LayerPlan::format(int64_t n, int64_t k) const {
  return {.bits = bits,
          .group_size = group_size,
          .symmetric = symmetric,
          .n = n,
          .k = k,
          .scale_type = scale_bits == 8 ? ScaleType::kByte : ScaleType::kF16};
}

LayerPlan Plan::layer(const std::string& name) const {
  LayerPlan layer = base;
  for (const Rule& rule : rules) {
    if (rule.name.matches(name)) change(layer, rule);
  }
  return layer;
}

void Plan::validate() const {
  check_layer(base, "the plan");
  for (const Rule& rule : rules) {
    LayerPlan layer = base;
    change(layer, rule);
    check_layer(layer, fmt::format("rule '{}'", rule.pattern));
  }
}

std::vector<Plan::Rule> read_plan_rules(const std::filesystem::path& file) {
  const toml::table root = parse_toml(read_file(file), file.string());
  for (const auto& [key, value] : root) {
    if (key.str() != "rule" || !value.is_array_of_tables())
      throw UsageError(fmt::format("{}: {} is not known; a plan holds [[rule]] tables", file.string(),
                                   quote_name(key.str())));
  }
  std::vector<Plan::Rule> rules;
  const toml::array* tables = root["rule"].as_array();
  for (size_t i = 0; tables && i < tables->size(); ++i) {
    const toml::table& table = *tables->get(i)->as_table();
    const std::string where = fmt::format("{} line {}", file.string(), table.source().begin.line);
    for (const auto& [key, value] : table) {
      constexpr std::array<std::string_view, 6> kKeys = {"pattern",    "method",    "bits",
                                                         "group_size", "symmetric", "scale_bits"};
      if (std::find(kKeys.begin(), kKeys.end(), key.str()) == kKeys.end())
        throw UsageError(fmt::format("{}: {} is not known in a rule", where, quote_name(key.str())));
    }
    const auto pattern = take<std::string>(table, "pattern", where);
    if (!pattern) throw UsageError(fmt::format("{}: a rule needs a 'pattern'", where));
    Plan::Rule rule(*pattern, where);
    rule.method = take<std::string>(table, "method", where);
    rule.bits = take<int>(table, "bits", where);
    rule.group_size = take<int>(table, "group_size", where);
    rule.symmetric = take<bool>(table, "symmetric", where);
    rule.scale_bits = take<int>(table, "scale_bits", where);
    rules.push_back(std::move(rule));
  }
  return rules;
}

}  // namespace nibble
