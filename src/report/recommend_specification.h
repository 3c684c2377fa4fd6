// What a deployment must meet: the limits of `nibble recommend`, and how they are written.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::report {

enum class Prefer { kSize, kMemory, kSpeed };

struct Specification {
  std::vector<std::string> models, tasks;      // that count; empty: all of the study
  std::optional<double> max_size;              // bytes of the model's files
  std::optional<double> max_memory;            // bytes, the highest peak of the processes that count
  std::optional<double> min_throughput;        // tokens generated per second
  std::optional<double> max_latency;           // milliseconds, 95 % of the responses of each task
  std::optional<double> min_accuracy;          // share of right answers on each task
  std::optional<double> min_accuracy_kept;     // share of the baseline's accuracy, on each task
  std::optional<double> max_perplexity_ratio;  // to the baseline, on each text
  std::optional<double> bandwidth;             // bytes/s that another machine reads from its memory
  std::optional<double> memory;                // bytes that another machine has
  Prefer prefer = Prefer::kSize;               // decides between those of equal quality
  double tolerance = 0.01;  // relative loss that does not matter, where no limit above says what may be lost

  bool other_machine() const { return bandwidth || memory; }
  double accuracy_tolerance() const { return min_accuracy_kept ? 1 - *min_accuracy_kept : tolerance; }
  double perplexity_tolerance() const { return max_perplexity_ratio ? *max_perplexity_ratio - 1 : tolerance; }
  void validate() const;  // throws UsageError
};

// Values as people write them; all throw UsageError naming `option`. Positive and finite.
double parse_bytes(std::string_view option, std::string_view text);         // "600MB", "1.5 GiB", "64000000"
double parse_bandwidth(std::string_view option, std::string_view text);     // "50GB/s", "50GB"
double parse_milliseconds(std::string_view option, std::string_view text);  // "200ms", "1.5s", "200"
double parse_share(std::string_view option, std::string_view text);         // "98%", "0.98"
double parse_number(std::string_view option, std::string_view text);        // "20"
Prefer parse_prefer(std::string_view option, std::string_view text);        // "size", "memory", "speed"
std::string_view prefer_name(Prefer prefer);

// "600 MB", "1.5 GB".
std::string bytes_text(double bytes);

}  // namespace nibble::report
