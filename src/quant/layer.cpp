#include "quant/layer.h"

#include <array>
#include <cmath>

#include "base/stopwatch.h"
#include "quant/methods.h"

namespace nibble {
namespace {

constexpr std::array<int, 4> kGroupSizes = {128, 64, 32, 16};

void add_reason(LayerReport& report, const std::string& text) {
  if (text.empty()) return;
  report.reason += report.reason.empty() ? text : "; " + text;
}

bool measurable(const InputStatistics& input) { return input.finite && input.tokens > 0; }

// What comes after a plan that broke the layer: the next smaller group, then 8 bits, then 16.
LayerPlan next_plan(const LayerPlan& plan) {
  LayerPlan next = plan;
  if (plan.bits < 8) {
    for (const int group : kGroupSizes) {
      if (plan.group_size == 0 || group < plan.group_size) {
        next.group_size = group;
        return next;
      }
    }
    next.bits = 8;
  } else {
    next.bits = 16;
  }
  return next;
}

// A layer that has lost more than that by larger groups is given groups that cost it next to nothing.
constexpr double kMended = 1.5;  // times the error of the finest groups

// Where rounding at the plan's group size is beyond the growth limit: the largest at which it is mended, and
// why.
struct SmallerGroup {
  int group_size;
  std::string reason;
};
std::optional<SmallerGroup> smaller_group(const std::vector<float>& weight, const PackedFormat& planned,
                                          const InputStatistics& input, const LayerOptions& options,
                                          ThreadPool& pool) {
  const int finest = kGroupSizes.back();
  if (!measurable(input) || planned.bits >= 8 || planned.group_size == finest) return std::nullopt;
  const auto error = [&](int group) {
    PackedFormat format = planned;
    format.group_size = group;
    return rounding_error(weight, format, input, pool).value_or(0);
  };
  const double least = error(finest), own = error(planned.group_size);
  if (own <= options.growth_limit * least) return std::nullopt;
  for (const int group : kGroupSizes) {
    if (planned.group_size != 0 && group >= planned.group_size) continue;
    if (group != finest && error(group) > kMended * least) continue;
    return SmallerGroup{group,
                        fmt::format("rounding loses {:.2g} of the output at group size {} and {:.2g} at "
                                    "{}, more than {:g} times",
                                    own, planned.group_size, least, finest, options.growth_limit)};
  }
  return std::nullopt;
}

std::string describe_change(const LayerPlan& from, const LayerPlan& to) {
  if (to.bits != from.bits) return fmt::format("{} bits", to.bits);
  return fmt::format("group size {}", to.group_size);
}

}  // namespace

OrderedJson to_json(const LayerReport& r) {
  const auto optional = [](const std::optional<double>& v) {
    return v ? OrderedJson(*v) : OrderedJson(nullptr);
  };
  return {{"name", r.name},
          {"shape", {r.n, r.k}},
          {"method", r.used.bits == 16 ? "none" : r.used.method},
          {"bits", r.used.bits},
          {"group_size", r.used.group_size},
          {"symmetric", r.used.symmetric},
          {"scale_bits", r.used.scale_bits},
          {"remainder", r.remainder},
          {"act_order", r.act_order},
          {"damp", r.damp},
          {"scaled", r.scaled},
          {"scale_exponent", r.scale_exponent},
          {"fed_forward", r.fed_forward},
          {"error", optional(r.error)},
          {"rtn_error", optional(r.rtn_error)},
          {"fallback", r.fallback},
          {"reason", r.reason},
          {"seconds", r.seconds}};
}

LayerReport layer_report(const Json& j, std::string_view where) {
  const auto optional = [&](const char* key) -> std::optional<double> {
    if (!j.contains(key) || j.at(key).is_null()) return std::nullopt;
    return json_get<double>(j, key, where);
  };
  const auto shape = json_get<std::array<int64_t, 2>>(j, "shape", where);
  LayerReport r;
  r.name = json_get<std::string>(j, "name", where);
  r.n = shape[0];
  r.k = shape[1];
  r.used = {json_get<std::string>(j, "method", where), json_get<int>(j, "bits", where),
            json_get<int>(j, "group_size", where), json_get<bool>(j, "symmetric", where),
            json_get<int>(j, "scale_bits", where)};
  r.remainder = json_get<int64_t>(j, "remainder", where);
  r.act_order = json_get<bool>(j, "act_order", where);
  r.damp = json_get<double>(j, "damp", where);
  r.scaled = json_get<bool>(j, "scaled", where);
  r.scale_exponent = json_get<float>(j, "scale_exponent", where);
  r.fed_forward = json_get<double>(j, "fed_forward", where);
  r.error = optional("error");
  r.rtn_error = optional("rtn_error");
  r.fallback = json_get<std::string>(j, "fallback", where);
  r.reason = json_get<std::string>(j, "reason", where);
  r.seconds = json_get<double>(j, "seconds", where);
  return r;
}

int64_t clean_weights(std::vector<float>& weight) {
  int64_t bad = 0;
  for (float& w : weight) {
    if (std::isfinite(w)) continue;
    w = 0;
    ++bad;
  }
  return bad;
}

std::optional<double> rounding_error(std::span<const float> weight, const PackedFormat& format,
                                     const InputStatistics& input, ThreadPool& pool) {
  if (!measurable(input)) return std::nullopt;
  const Quantized rounded = quantize_rtn(weight, input, {format}, pool);
  return relative_output_error(weight, dequantize(rounded.matrix, pool), format.n, input, pool);
}

QuantizedLayer quantize_layer(const std::string& name, std::vector<float> weight, int64_t n,
                              const InputStatistics& input, const LayerPlan& plan,
                              std::optional<double> rtn_error, const LayerOptions& options,
                              ThreadPool& pool) {
  const Stopwatch watch;
  const int64_t k = input.k;
  QuantizedLayer out;
  LayerReport& report = out.report;
  report.name = name;
  report.n = n;
  report.k = k;
  report.rtn_error = rtn_error;
  if (const int64_t bad = clean_weights(weight))
    add_reason(report, fmt::format("{} NaN or infinite weights set to 0", bad));
  LayerPlan used = plan;
  if (used.bits < 16) {
    if (const auto smaller = smaller_group(weight, used.format(n, k), input, options, pool)) {
      used.group_size = smaller->group_size;
      report.fallback = describe_change(plan, used);
      add_reason(report, smaller->reason);
    }
  }
  while (used.bits < 16) {
    const PackedFormat format = used.format(n, k);
    Quantized q = find_method(used.method)
                      .quantize(weight, input, {format, options.damp, options.act_order, options.clip}, pool);
    std::string note = q.note;
    bool rounded = q.fell_back;
    std::optional<double> error;
    if (measurable(input)) {
      error = relative_output_error(weight, dequantize(q.matrix, pool), n, input, pool);
      if (!rounded && used.method != "rtn" && rtn_error && *error > *rtn_error) {
        const Quantized plain = quantize_rtn(weight, input, {format}, pool);
        const double plain_error =
            relative_output_error(weight, dequantize(plain.matrix, pool), n, input, pool);
        if (plain_error < *error) {
          note = fmt::format("output error {:.3g} of {}, {:.3g} of rounding: rounded", *error, used.method,
                             plain_error);
          error = plain_error;
          q.matrix = plain.matrix;
          rounded = true;
        }
      }
    }
    if (error && *error > options.error_limit) {
      const LayerPlan next = next_plan(used);
      report.fallback = describe_change(used, next);
      add_reason(report,
                 fmt::format("output error {:.3g} at {} bits, group size {} is above the limit {:.3g}",
                             *error, used.bits, used.group_size, options.error_limit));
      used = next;
      continue;
    }
    add_reason(report, note);
    if (rounded) {
      report.fallback = report.fallback.empty() ? "rtn" : report.fallback + ", rtn";
      used.method = "rtn";
    }
    report.error = error;
    report.damp = q.damp_used;
    report.act_order = options.act_order && q.damp_used > 0;
    report.remainder = k % format.group();
    out.matrix = std::move(q.matrix);
    break;
  }
  report.used = used;
  if (used.bits == 16) report.error = 0.0;
  report.seconds = watch.seconds();
  return out;
}

}  // namespace nibble
