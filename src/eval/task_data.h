// Files of the tasks: where they lie in a data directory, and their rows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/random.h"
#include "eval/task.h"

namespace nibble {

struct DataFile {
  std::filesystem::path path;
  std::string text;
  std::string sha256;
};

// "dev" and "valid" are "validation"; empty is the task's own.
std::string canonical_split(std::string_view split, std::string_view otherwise);

// Paths below the data directory where a task's split may lie, in the order they are tried:
// TASK.SPLIT.jsonl, TASK/SPLIT.jsonl, and the names that the public files go by.
std::vector<std::string> candidate_files(std::string_view task, std::string_view split);

// Reads the first candidate that exists; throws Error that lists what was looked for.
DataFile open_task_file(const std::filesystem::path& data_dir, std::string_view task, std::string_view split);

struct DataRow {
  Json json;
  std::string where;         // "FILE line N", for errors
  int64_t train_index = -1;  // its place in the train file when it came from there
};

// Calls visit for every object of a JSON-lines file until it returns false.
void for_each_row(const DataFile& file, const std::function<bool(DataRow&&)>& visit);

// The rows that a task scores, and the train rows that its examples are drawn from.
struct TaskRows {
  std::string split;   // as a result names it: "test", "mixed (contaminated)", "test, same examples"
  std::string sha256;  // of the scored file; with examples or a mixed split also of the other, joined by '+'
  std::vector<DataRow> rows, train;
};
// Split "mixed" is the task's own split followed by train. options.limit cuts after that many lines,
// unless is_whole_row(first line) is false: a row then spans lines, and the caller cuts.
TaskRows load_rows(const TaskInfo& task, const TaskOptions& options, int shots,
                   bool (*is_whole_row)(const Json&) = nullptr);

// Generator of one row: depends on the seed and the row's index alone, so a limit changes nothing.
Random row_random(uint64_t seed, uint64_t row);
// That of the examples before a row.
Random example_random(const TaskOptions& options, uint64_t row);

// `count` distinct indices below n_train for which excluded(index) is false, in drawn order.
// Throws Error naming `where` when there are too few.
std::vector<size_t> draw_examples(size_t n_train, int count, Random& random,
                                  const std::function<bool(size_t)>& excluded, std::string_view where);

}  // namespace nibble
