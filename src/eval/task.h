// The tasks that score a model: BoolQ, GSM8K, MS MARCO, WikiText perplexity (docs/tasks.md).
//
// Metrics and checks a result carries:
//   boolq     accuracy*, gold_ppl
//   msmarco   accuracy* (balanced pairs), mrr_at_10, all_passages_accuracy, gold_ppl
//   gsm8k     exact_match_flexible*, exact_match_strict, gold_ppl
//   wikitext  ppl* (lower is better), word_ppl, bits_per_byte            (* the primary metric)
// gold_ppl is the perplexity per token of the gold completion given the prompt.
// Checks with `share` or `accuracy` in their name are fractions, the others counts. Every task but
// wikitext has truncated_prompts (prompts that lost their head to fit the model's context) and
// top_answer_share (of the commonest answer: 1 is a constant answer); boolq and msmarco have
// label_share_yes, answer_share_yes and not_finite (rows without a finite score). Beside these:
//   boolq     majority_accuracy
//   msmarco   always_no_accuracy and answer_share_no_all (over all passages), queries, queries_without_pair
//   gsm8k     strict_no_match, flexible_no_match, truncated_answers, empty_answers, and
//             wrong_but_complete: wrong answers that ended by themselves in the asked-for form
//   wikitext  window, predicted_tokens, tokens_left_out
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "eval/language_model.h"
#include "eval/result.h"

namespace nibble {

struct TaskOptions {
  std::filesystem::path data_dir;  // holds boolq.validation.jsonl …, or boolq/dev.jsonl …
  std::string split;               // "train", "validation" (or "dev"), "test", "mixed"; empty: the task's own
  int64_t limit = 0;               // the first rows (queries, windows) only; 0: all
  int shots = -1;                  // 0 … 8 examples from the train file; −1: the task's own number
  bool same_examples = false;  // one draw for all rows (but for a row that is among them): its part of the
                               // prompt then runs once
  uint64_t seed = 0;           // of the examples and of MS MARCO's pairs
  int window = 0;              // wikitext: tokens a window; 0: 2,048, or what the model allows
};

inline constexpr const char* kTextTask = "wikitext";  // whose text distances are measured on
inline constexpr int kMaxShots = 8;

struct TaskInfo {
  std::string_view name;
  int version;  // rises when prompts or scoring change: results then do not compare
  std::string_view default_split;
  int default_shots;
  std::string_view primary;
  bool higher_is_better;
  void (*run)(LanguageModel&, const TaskOptions&, const ProgressFn&, TaskResult&);
};

std::span<const TaskInfo> all_tasks();
const TaskInfo& find_task(std::string_view name);  // throws UsageError that lists the names

// Scores the model. Options are checked first (UsageError); a missing or malformed data file is an
// Error that names it and the line. `progress` may be empty.
TaskResult run_task(const std::string& name, LanguageModel& model, const TaskOptions& options,
                    const ProgressFn& progress);

}  // namespace nibble
