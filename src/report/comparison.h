// Two results of one task on the same rows.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/result.h"

namespace nibble::report {

// A sample, reduced to what a comparison needs: texts are kept as hashes.
struct Row {
  std::string key, cluster;
  double score = 0;
  double tokens = 0;
  std::string prediction;
  uint64_t input_hash = 0;   // prompt and gold answer: the same row of the same data
  uint64_t output_hash = 0;  // what the model answered
  bool is_empty = false;     // an answer of nothing but white space
  Json detail;
};
Row to_row(const Sample& sample);

constexpr double kSignificance = 0.05;
constexpr double kDetectableErrors = 2.8;  // 1.96 + 0.84: a 5 % test with 80 % power

enum class Verdict { kNone, kBetter, kWorse };

struct Comparison {
  std::string not_comparable = "not compared";  // why; empty when the rest holds
  bool is_ratio = false;                        // perplexity: differences are of ln ppl, lower is better
  size_t pairs = 0;
  double difference = 0;           // second − first: share of right answers, or ln(ppl ratio)
  double ci_low = 0, ci_high = 0;  // 95 %, paired
  double smallest_detectable = 0;  // what this many rows could have shown, same unit
  int right_to_wrong = 0, wrong_to_right = 0;
  double p = 1;       // McNemar's exact test, by clusters the sign-flip test; perplexity: paired t
  double p_holm = 1;  // corrected over all comparisons of the report
  Verdict verdict = Verdict::kNone;  // of the second, from the interval alone

  bool comparable() const { return not_comparable.empty(); }
  // The verdict outlives the correction for the number of comparisons.
  bool survives_holm() const { return verdict != Verdict::kNone && p_holm < kSignificance; }
};

// True where the primary metric is a perplexity, so that ratios are compared.
bool is_perplexity(const TaskResult& result);

// "better", "worse", "no measurable difference".
std::string_view verdict_word(Verdict verdict);
// "−1.5 [−4.0, +1.0]" in points of per cent; "×1.023 [1.011, 1.035]" for perplexities; "not comparable
// (why)".
std::string difference_text(const Comparison& comparison);
// The smallest difference that could have been shown: "±4.2", or "×1.02".
std::string detectable_text(const Comparison& comparison);

// Not comparable, with the reason, where split, shots, seed, version, keys or data differ.
// Where McNemar's test of independent right and wrong answers yields p ≥ `alpha`, the interval, the dear
// part, is left out (NaN) and p is 1: for families of which only what is below alpha matters, and for which
// Holm's correction of those is the same.
Comparison compare(const TaskResult& first, const std::vector<Row>& first_rows, const TaskResult& second,
                   const std::vector<Row>& second_rows, double alpha = 2);

}  // namespace nibble::report
