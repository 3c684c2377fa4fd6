#include "eval/task_data.h"

#include <fmt/ranges.h>

#include <numeric>

#include "base/file.h"
#include "base/sha256.h"

namespace nibble {

std::string canonical_split(std::string_view split, std::string_view otherwise) {
  if (split.empty()) split = otherwise;
  if (split == "dev" || split == "valid") split = "validation";
  return std::string(split);
}

std::vector<std::string> candidate_files(std::string_view task, std::string_view split) {
  if (task == "wikitext") {
    const std::string_view raw = split == "validation" ? "valid" : split;
    std::vector<std::string> names = {
        fmt::format("wikitext.{}.txt", split), fmt::format("wikitext/{}.txt", split),
        fmt::format("wikitext2/wiki.{}.raw", raw), fmt::format("wikitext-2-raw/wiki.{}.raw", raw),
        fmt::format("wiki.{}.raw", raw)};
    if (split == "train") names.push_back("wikitext2/wiki.train.first1MB.raw");
    return names;
  }
  std::vector<std::string> names = {fmt::format("{}.{}.jsonl", task, split),
                                    fmt::format("{}/{}.jsonl", task, split)};
  if (split == "validation") names.push_back(fmt::format("{}/dev.jsonl", task));
  if (task == "boolq" && split == "train") names.push_back("boolq/train32.jsonl");
  if (task == "msmarco" && split == "validation") {
    names.insert(names.end(), {"msmarco/v1.1_sample.jsonl", "msmarco/trec_dl19_judged.jsonl"});
  }
  return names;
}

DataFile open_task_file(const std::filesystem::path& data_dir, std::string_view task,
                        std::string_view split) {
  if (!std::filesystem::is_directory(data_dir)) fail("{}: no such data directory", data_dir.string());
  const std::vector<std::string> names = candidate_files(task, split);
  for (const std::string& name : names) {
    DataFile file{data_dir / name, {}, {}};
    if (!std::filesystem::exists(file.path)) continue;
    file.text = read_file(file.path);
    file.sha256 = sha256_of(file.text);
    return file;
  }
  fail("{}: no data for task {}, split {}: looked for {}", data_dir.string(), task, split,
       fmt::join(names, ", "));
}

void for_each_row(const DataFile& file, const std::function<bool(DataRow&&)>& visit) {
  const std::string_view text = file.text;
  size_t begin = 0;
  for (size_t line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = text.substr(begin, end - begin);
    begin = end + 1;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string where = fmt::format("{} line {}", file.path.string(), line);
    Json json = parse_json(row, where);
    if (!json.is_object()) fail("{}: not a JSON object", where);
    if (!visit({std::move(json), std::move(where), -1})) return;
  }
}

TaskRows load_rows(const TaskInfo& task, const TaskOptions& options, int shots,
                   bool (*is_whole_row)(const Json&)) {
  const std::string own(task.default_split);
  const std::string split = canonical_split(options.split, own);
  const bool mixed = split == "mixed";
  TaskRows loaded;
  loaded.split = mixed ? "mixed (contaminated)" : split;

  const DataFile file = open_task_file(options.data_dir, task.name, mixed ? own : split);
  loaded.sha256 = file.sha256;
  bool cut = options.limit > 0;
  const auto wanted = [&] { return !cut || static_cast<int64_t>(loaded.rows.size()) < options.limit; };
  const bool from_train = split == "train";
  for_each_row(file, [&](DataRow&& row) {
    if (loaded.rows.empty() && is_whole_row && !is_whole_row(row.json)) cut = false;
    if (from_train) row.train_index = static_cast<int64_t>(loaded.rows.size());
    loaded.rows.push_back(std::move(row));
    return wanted();
  });
  if (loaded.rows.empty()) fail("{}: no rows", file.path.string());
  if (!mixed && shots == 0) return loaded;
  if (shots > 0 && options.same_examples) loaded.split += ", same examples";

  const DataFile train = open_task_file(options.data_dir, task.name, "train");
  if (train.path != file.path) loaded.sha256 += "+" + train.sha256;
  for_each_row(train, [&](DataRow&& row) {
    row.train_index = static_cast<int64_t>(loaded.train.size());
    loaded.train.push_back(std::move(row));
    return true;
  });
  if (mixed) {
    for (size_t i = 0; i < loaded.train.size() && wanted(); ++i) loaded.rows.push_back(loaded.train[i]);
  }
  return loaded;
}

Random row_random(uint64_t seed, uint64_t row) {
  // Twice through the generator: seeds that lie one apart must not give streams that overlap.
  return Random(Random(Random(seed).next() + row).next());
}

Random example_random(const TaskOptions& options, uint64_t row) {
  return row_random(options.seed, options.same_examples ? std::numeric_limits<uint64_t>::max() : row);
}

std::vector<size_t> draw_examples(size_t n_train, int count, Random& random,
                                  const std::function<bool(size_t)>& excluded, std::string_view where) {
  std::vector<size_t> pool(n_train), drawn;
  std::iota(pool.begin(), pool.end(), size_t{0});
  for (size_t i = 0; i < n_train && drawn.size() < static_cast<size_t>(count); ++i) {
    std::swap(pool[i], pool[i + random.below(n_train - i)]);
    if (!excluded(pool[i])) drawn.push_back(pool[i]);
  }
  if (drawn.size() < static_cast<size_t>(count)) {
    fail("{}: {} examples asked for, the train file has {} other rows: use fewer shots", where, count,
         drawn.size());
  }
  return drawn;
}

}  // namespace nibble
