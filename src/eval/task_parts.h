// What the tasks share.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/task.h"
#include "eval/task_data.h"

namespace nibble {

// One function a task; each fills the result that run_task() prepared.
void run_boolq(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
               TaskResult& result);
void run_gsm8k(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
               TaskResult& result);
void run_msmarco(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
                 TaskResult& result);
void run_wikitext(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
                  TaskResult& result);

// Shared by the tasks' runs.
std::vector<double> scores_of(std::span<const Sample> samples);
std::vector<std::string> clusters_of(std::span<const Sample> samples);

// Share of the commonest prediction: 1 is a constant answer.
double top_answer_share(std::span<const Sample> samples);

// Adds metric gold_ppl from the samples' detail.gold_nll and detail.gold_tokens, clustered.
void add_gold_ppl(TaskResult& result);

// Examples and the question itself, joined by a blank line.
std::string join_shots(const std::vector<std::string>& examples, std::string_view question);

}  // namespace nibble
