#include "report/head.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "report/format.h"

namespace nibble::report {

std::vector<std::pair<std::string, std::string>> head_of(const StudyView& study) {
  std::vector<std::pair<std::string, std::string>> head;
  const auto value = [&](const char* key) { return study.meta_text(key).value_or("not stored"); };
  const auto if_stored = [&](const char* name, const char* key) {
    if (const auto text = study.meta_text(key)) head.emplace_back(name, *text);
  };
  head.emplace_back("version", "nibble " + value("version"));
  if_stored("commit", "commit");
  head.emplace_back("processor", value("cpu"));
  head.emplace_back("threads", value("threads"));
  head.emplace_back("instruction set", value("isa"));
  if_stored("device", "device");
  if_stored("host", "host");
  if_stored("memory", "memory");
  if_stored("started", "started");
  if (const auto seed = study.meta_text("seed")) {
    head.emplace_back("seed", *seed);
    return head;
  }
  std::set<uint64_t> seeds;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      for (const TaskView& cell : variant.tasks) {
        if (cell.result) seeds.insert(cell.result->seed);
      }
    }
  }
  head.emplace_back("seed", seeds.empty() ? "not stored" : fmt::format("{}", fmt::join(seeds, ", ")));
  return head;
}

std::string progress_of(const StudyView& study) {
  size_t cells = 0, measured = 0, waiting = 0;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      cells += variant.tasks.size();
      for (const TaskView& cell : variant.tasks) {
        measured += cell.missing.empty();
        waiting += cell.missing == kNotRunYet;
      }
    }
  }
  std::string text = fmt::format("{} of {} measured", measured, counted(cells, "cell"));
  if (cells > measured + waiting) text += fmt::format(", {} failed", cells - measured - waiting);
  if (waiting > 0) text += fmt::format(", {} not run yet", waiting);
  return text;
}

TextTable tasks_table(const StudyView& study) {
  TextTable table;
  table.heads = {{"Dataset"},
                 {"Split"},
                 {"Rows", Align::kRight},
                 {"Shots", Align::kRight},
                 {"Seed", Align::kRight},
                 {"Task version", Align::kRight},
                 {"Metric of Table 1"}};
  for (const std::string& task : study.tasks) {
    std::vector<std::vector<std::string>> settings;
    for (const ModelView& model : study.models) {
      for (const VariantView& variant : model.variants) {
        const TaskView* cell = variant.find(task);
        if (!cell || !cell->result) continue;
        const TaskResult& r = *cell->result;
        std::vector<std::string> row{task,
                                     r.split,
                                     fmt::format("{}", r.rows),
                                     fmt::format("{}", r.shots),
                                     fmt::format("{}", r.seed),
                                     fmt::format("{}", r.task_version),
                                     r.primary};
        if (std::find(settings.begin(), settings.end(), row) == settings.end())
          settings.push_back(std::move(row));
      }
    }
    if (settings.empty()) settings.push_back({task, "missing (no cell measured)", "–", "–", "–", "–", "–"});
    std::move(settings.begin(), settings.end(), std::back_inserter(table.rows));
  }
  return table;
}

}  // namespace nibble::report
