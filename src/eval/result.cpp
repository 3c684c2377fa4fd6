#include "eval/result.h"

#include <cmath>
#include <limits>

namespace nibble {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double to_number(const Json& value, const char* what, std::string_view where) {
  if (value.is_null()) return kNaN;
  if (value.is_number()) return value.get<double>();
  if (value == "inf") return kInfinity;
  if (value == "-inf") return -kInfinity;
  fail("{}: '{}' is not a number ({})", where, what, value.type_name());
}

const Json& object_at(const Json& object, const char* key, std::string_view where) {
  if (!object.is_object() || !object.contains(key)) fail("{}: '{}' is missing", where, key);
  if (!object.at(key).is_object()) fail("{}: '{}' is not an object", where, key);
  return object.at(key);
}

Json to_json(const Metric& metric) {
  return {{"value", json_number(metric.value)},
          {"stderr", json_number(metric.stderr_)},
          {"ci95", Json::array({json_number(metric.ci_low), json_number(metric.ci_high)})}};
}

Metric metric_from_json(const Json& json, std::string_view where) {
  if (!json.is_object() || !json.contains("value")) fail("{}: 'value' is missing", where);
  Metric metric;
  metric.value = number_from_json(json, "value", where);
  metric.stderr_ = number_from_json(json, "stderr", where);
  metric.ci_low = metric.ci_high = kNaN;
  if (json.contains("ci95") && !json.at("ci95").is_null()) {
    const Json& interval = json.at("ci95");
    if (!interval.is_array() || interval.size() != 2) fail("{}: 'ci95' is not [low, high]", where);
    metric.ci_low = to_number(interval[0], "ci95", where);
    metric.ci_high = to_number(interval[1], "ci95", where);
  }
  return metric;
}

Percentiles percentiles_or_zero(const Json& json, const char* key, std::string_view where) {
  if (!json.contains(key) || json.at(key).is_null()) return {};
  return percentiles_from_json(json.at(key), fmt::format("{} {}", where, key));
}

// Length of the valid UTF-8 character that starts at text[i], or 0 (RFC 3629: no overlong forms,
// no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned lead = byte(i);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  }
  const unsigned second = byte(i + 1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F)) return 0;
  if ((lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) return 0;
  return length;
}

}  // namespace

Json json_number(double value) {
  if (std::isnan(value)) return nullptr;
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

double number_from_json(const Json& object, const char* key, std::string_view where) {
  if (!object.is_object()) fail("{}: not an object ({})", where, object.type_name());
  return object.contains(key) ? to_number(object.at(key), key, where) : kNaN;
}

std::string to_valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    if (length == 0) {
      valid += "\uFFFD";
      ++i;
    } else {
      valid.append(text.substr(i, length));
      i += length;
    }
  }
  return valid;
}

Json to_json(const Percentiles& percentiles) {
  return {{"mean", json_number(percentiles.mean)},
          {"p50", json_number(percentiles.p50)},
          {"p90", json_number(percentiles.p90)},
          {"p95", json_number(percentiles.p95)},
          {"p99", json_number(percentiles.p99)},
          {"min", json_number(percentiles.min)},
          {"whisker_low", json_number(percentiles.whisker_low)},
          {"p25", json_number(percentiles.p25)},
          {"p75", json_number(percentiles.p75)},
          {"whisker_high", json_number(percentiles.whisker_high)},
          {"max", json_number(percentiles.max)}};
}

Percentiles percentiles_from_json(const Json& json, std::string_view where) {
  const auto number = [&](const char* key) { return number_from_json(json, key, where); };
  return {number("mean"), number("p50"),          number("p90"),         number("p95"),
          number("p99"),  number("min"),          number("whisker_low"), number("p25"),
          number("p75"),  number("whisker_high"), number("max")};
}

Json to_json(const TaskResult& result) {
  Json metrics = Json::object(), checks = Json::object();
  for (const auto& [name, metric] : result.metrics) metrics[name] = to_json(metric);
  for (const auto& [name, value] : result.checks) checks[name] = json_number(value);
  return {{"task", result.task},
          {"task_version", result.task_version},
          {"split", result.split},
          {"data_sha256", result.data_sha256},
          {"rows", result.rows},
          {"shots", result.shots},
          {"seed", result.seed},
          {"primary", result.primary},
          {"higher_is_better", result.higher_is_better},
          {"metrics", std::move(metrics)},
          {"checks", std::move(checks)},
          {"latency_ms", to_json(result.latency_ms)},
          {"first_token_ms", to_json(result.first_token_ms)},
          {"per_token_ms", to_json(result.per_token_ms)},
          {"throughput",
           {{"prompt_tokens_per_s", json_number(result.prompt_tokens_per_s)},
            {"output_tokens_per_s", json_number(result.output_tokens_per_s)}}},
          {"seconds", json_number(result.seconds)}};
}

TaskResult task_result_from_json(const Json& json, std::string_view where) {
  TaskResult result;
  result.task = json_get<std::string>(json, "task", where);
  result.task_version = json_get<int>(json, "task_version", where);
  result.split = json_get<std::string>(json, "split", where);
  result.data_sha256 = json_get_or<std::string>(json, "data_sha256", "", where);
  result.rows = json_get<int64_t>(json, "rows", where);
  result.shots = json_get<int>(json, "shots", where);
  result.seed = json_get<uint64_t>(json, "seed", where);
  result.primary = json_get<std::string>(json, "primary", where);
  result.higher_is_better = json_get<bool>(json, "higher_is_better", where);
  for (const auto& [name, metric] : object_at(json, "metrics", where).items()) {
    result.metrics[name] = metric_from_json(metric, fmt::format("{} metric '{}'", where, name));
  }
  for (const auto& [name, value] : object_at(json, "checks", where).items()) {
    result.checks[name] = to_number(value, name.c_str(), where);
  }
  result.latency_ms = percentiles_or_zero(json, "latency_ms", where);
  result.first_token_ms = percentiles_or_zero(json, "first_token_ms", where);
  result.per_token_ms = percentiles_or_zero(json, "per_token_ms", where);
  const Json& throughput = object_at(json, "throughput", where);
  result.prompt_tokens_per_s = number_from_json(throughput, "prompt_tokens_per_s", where);
  result.output_tokens_per_s = number_from_json(throughput, "output_tokens_per_s", where);
  result.seconds = number_from_json(json, "seconds", where);
  return result;
}

Json to_json(const Sample& sample) {
  return {{"key", to_valid_utf8(sample.key)},
          {"cluster", to_valid_utf8(sample.cluster)},
          {"score", json_number(sample.score)},
          {"tokens", json_number(sample.tokens)},
          {"prediction", to_valid_utf8(sample.prediction)},
          {"gold", to_valid_utf8(sample.gold)},
          {"prompt", to_valid_utf8(sample.prompt)},
          {"output", to_valid_utf8(sample.output)},
          {"detail", sample.detail}};
}

Sample sample_from_json(const Json& json, std::string_view where) {
  Sample sample;
  sample.key = json_get<std::string>(json, "key", where);
  sample.cluster = json_get_or<std::string>(json, "cluster", sample.key, where);
  sample.score = number_from_json(json, "score", where);
  sample.tokens = number_from_json(json, "tokens", where);
  sample.prediction = json_get<std::string>(json, "prediction", where);
  sample.gold = json_get<std::string>(json, "gold", where);
  sample.prompt = json_get<std::string>(json, "prompt", where);
  sample.output = json_get<std::string>(json, "output", where);
  if (json.contains("detail")) sample.detail = json.at("detail");
  return sample;
}

Json to_json(const MemoryBytes& memory) {
  return {{"file", memory.file},           {"weights", memory.weights},   {"kv_cache", memory.kv_cache},
          {"workspace", memory.workspace}, {"peak_rss", memory.peak_rss}, {"peak_gpu", memory.peak_gpu}};
}

MemoryBytes memory_from_json(const Json& json, std::string_view where) {
  const auto bytes = [&](const char* key) { return json_get<uint64_t>(json, key, where); };
  return {bytes("file"),      bytes("weights"),  bytes("kv_cache"),
          bytes("workspace"), bytes("peak_rss"), bytes("peak_gpu")};
}

}  // namespace nibble
