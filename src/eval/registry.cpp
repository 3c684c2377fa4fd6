#include <fmt/ranges.h>

#include <algorithm>

#include "base/stopwatch.h"
#include "eval/task.h"
#include "eval/task_parts.h"

namespace nibble {
namespace {

constexpr TaskInfo kTasks[] = {
    {"boolq", 1, "validation", 0, "accuracy", true, run_boolq},
    {"msmarco", 1, "validation", 0, "accuracy", true, run_msmarco},
    {"gsm8k", 1, "test", 5, "exact_match_flexible", true, run_gsm8k},
    {"wikitext", 1, "test", 0, "ppl", false, run_wikitext},
};

}  // namespace

std::span<const TaskInfo> all_tasks() { return kTasks; }

const TaskInfo& find_task(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kTasks), std::end(kTasks), [&](const TaskInfo& t) { return t.name == name; });
  if (found != std::end(kTasks)) return *found;
  std::vector<std::string_view> names;
  for (const TaskInfo& task : kTasks) names.push_back(task.name);
  throw UsageError(fmt::format("no task '{}': there are {}", name, fmt::join(names, ", ")));
}

TaskResult run_task(const std::string& name, LanguageModel& model, const TaskOptions& options,
                    const ProgressFn& progress) {
  const TaskInfo& task = find_task(name);
  if (options.limit < 0)
    throw UsageError(fmt::format("limit {}: at least 1, or 0 for all rows", options.limit));
  if (options.shots < -1 || options.shots > kMaxShots) {
    throw UsageError(fmt::format("{} shots: from 0 to {}", options.shots, kMaxShots));
  }
  if (options.window < 0 || options.window == 1) {
    throw UsageError(fmt::format("window {}: at least 2 tokens, or 0 for the task's own", options.window));
  }
  const Stopwatch watch;
  TaskResult result;
  result.task = task.name;
  result.task_version = task.version;
  result.seed = options.seed;
  result.primary = task.primary;
  result.higher_is_better = task.higher_is_better;
  task.run(model, options, progress, result);
  result.rows = static_cast<int64_t>(result.samples.size());
  result.seconds = watch.seconds();
  return result;
}

}  // namespace nibble
