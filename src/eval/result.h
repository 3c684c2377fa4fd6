// What an evaluation yields; the same facts as `nibble eval --json` (docs/results.md).
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibble {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Metric {
  double value = 0;
  double stderr_ = 0;              // standard error; NaN with fewer than two independent rows
  double ci_low = 0, ci_high = 0;  // 95 %; NaN likewise
};

struct Percentiles {  // milliseconds, or whatever the name of the field says
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0;
  // For a box plot; NaN where an older version measured. The whiskers end at the furthest values within 1.5
  // times (p75 − p25) of the box (Tukey).
  double min = kUnknown, whisker_low = kUnknown, p25 = kUnknown, p75 = kUnknown, whisker_high = kUnknown,
         max = kUnknown;
};

// One scored row: what pairing before and after quantization needs.
struct Sample {
  std::string key;               // the same row in every run of this task: "17", "17/3"
  std::string cluster;           // rows that share one are not independent (MS MARCO: the query); else = key
  double score = 0;              // 1 right, 0 wrong; for perplexity rows: the summed NLL
  double tokens = 0;             // perplexity rows: tokens predicted; else tokens generated
  std::string prediction, gold;  // short: the choice, or the extracted answer
  std::string prompt, output;    // as given and as answered
  Json detail;                   // task's own: log-likelihoods, finish reason, strict/flexible
};

struct TaskResult {
  std::string task;  // "boolq"
  int task_version = 1;
  std::string split;        // "validation"; "mixed (contaminated)" when it is
  std::string data_sha256;  // of the task file; of each, joined by '+', when several were read
  int64_t rows = 0;         // rows scored
  int shots = 0;
  uint64_t seed = 0;
  std::string primary;  // the metric of Table 1: a key of `metrics`
  bool higher_is_better = true;
  std::map<std::string, Metric> metrics;
  std::map<std::string, double> checks;                     // shares and counts that keep a score honest
  Percentiles latency_ms;                                   // per response
  Percentiles first_token_ms;                               // generation only
  Percentiles per_token_ms;                                 // generation only, after the first
  double prompt_tokens_per_s = 0, output_tokens_per_s = 0;  // over the wall time of answering all rows
  double seconds = 0;                                       // wall time of the whole task
  std::vector<Sample> samples;
};

struct MemoryBytes {
  uint64_t file = 0, weights = 0, kv_cache = 0, workspace = 0, peak_rss = 0, peak_gpu = 0;
};

// The object of "results" in eval --json, without samples; and back. JSON has no NaN and no
// infinity: NaN (an error that cannot be estimated) is written as null, ±infinity as "inf", "-inf".
Json to_json(const TaskResult& result);
TaskResult task_result_from_json(const Json& json, std::string_view where);
Json to_json(const Percentiles& percentiles);
Percentiles percentiles_from_json(const Json& json, std::string_view where);
Json to_json(const Sample& sample);  // bytes that are not UTF-8 become U+FFFD
Sample sample_from_json(const Json& json, std::string_view where);
Json to_json(const MemoryBytes& memory);
MemoryBytes memory_from_json(const Json& json, std::string_view where);

// A number as the JSON above writes it; and back (null and a missing key are NaN).
Json json_number(double value);
double number_from_json(const Json& object, const char* key, std::string_view where);

// The text with every byte that is not part of valid UTF-8 replaced by U+FFFD: a model may stop
// inside a character, and JSON must not carry that.
std::string to_valid_utf8(std::string_view text);

}  // namespace nibble
