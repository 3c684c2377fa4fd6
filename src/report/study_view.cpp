#include "report/study_view.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "eval/paired.h"
#include "report/format.h"

namespace nibble::report {
namespace {

std::string why_missing(const Cell& cell) {
  const bool has_result = cell.task == kBench      ? cell.bench.is_array() && !cell.bench.empty()
                          : cell.task == kDistance ? cell.distance.is_object()
                                                   : cell.result.has_value();
  switch (cell.status) {
    case CellStatus::kDone:
      return has_result ? "" : "stored as done, but without a result";
    case CellStatus::kFailed:
      return cell.reason.empty() ? "failed, no reason stored" : cell.reason;
    case CellStatus::kPlanned:
      break;
  }
  return kNotRunYet;
}

// What the study writes of itself and of its machine.
constexpr const char* kMetaKeys[] = {"version", "commit", "host", "cpu",     "isa",        "device",
                                     "threads", "memory", "seed", "started", "study_toml", "finetuned"};

TaskView to_task_view(Cell cell, const Store& store) {
  TaskView view;
  view.task = cell.task;
  view.missing = why_missing(cell);
  view.seconds = cell.seconds;
  if (!view.missing.empty()) return view;
  view.memory = cell.memory;
  view.bench = std::move(cell.bench);
  view.distance = std::move(cell.distance);
  if (is_task(cell.task)) {
    // Cell by cell: the prompts of a whole study need not fit into memory.
    for (const Sample& sample : store.samples(cell.variant, cell.task)) view.rows.push_back(to_row(sample));
    view.result = std::move(cell.result);
  }
  return view;
}

// The element of `items` for which `is_it` holds, made by `make` when there is none.
template <typename Items, typename IsIt, typename Make>
auto& find_or_add(Items& items, IsIt is_it, Make make) {
  const auto found = std::find_if(items.begin(), items.end(), is_it);
  if (found != items.end()) return *found;
  items.push_back(make());
  return items.back();
}

void compare_with_baselines(StudyView& study) {
  std::vector<Comparison*> family;
  std::vector<double> p;
  for (ModelView& model : study.models) {
    const VariantView* baseline = model.baseline();
    for (VariantView& variant : model.variants) {
      for (TaskView& task : variant.tasks) {
        if (variant.variant.is_baseline() || !task.result) continue;
        const TaskView* reference = baseline ? baseline->find(task.task) : nullptr;
        Comparison& comparison = task.to_baseline;
        if (!baseline) {
          comparison.not_comparable = kNoBaseline;
        } else if (!reference) {
          comparison.not_comparable = "no baseline in the plan";
        } else if (!reference->result) {
          comparison.not_comparable = fmt::format("{} ({})", kBaselineMissing, reference->missing);
        } else {
          comparison = compare(*reference->result, reference->rows, *task.result, task.rows);
        }
        if (!comparison.comparable()) continue;
        family.push_back(&comparison);
        p.push_back(comparison.p);
      }
    }
  }
  const std::vector<double> corrected = holm(p);
  for (size_t i = 0; i < family.size(); ++i) family[i]->p_holm = corrected[i];
  study.comparisons = family.size();
}

}  // namespace

const Metric* TaskView::primary() const {
  if (!result) return nullptr;
  const auto found = result->metrics.find(result->primary);
  return found == result->metrics.end() ? nullptr : &found->second;
}

const TaskView* VariantView::find(const std::string& task) const {
  const auto found =
      std::find_if(tasks.begin(), tasks.end(), [&](const TaskView& t) { return t.task == task; });
  return found == tasks.end() ? nullptr : &*found;
}

namespace {

// A hub's name as it is; of a path on this machine the last part.
std::string short_source(const std::string& source) {
  std::filesystem::path path = std::filesystem::path(source).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return one_line(path.is_absolute() ? path.filename().string() : source);
}

}  // namespace

std::string VariantView::label() const {
  if (variant.is_baseline()) return "baseline";
  const std::string bits = variant.bits == 4 ? "" : fmt::format(" {}-bit", variant.bits);
  const bool elsewhere = !variant.source.empty() && variant.source != variant.model;
  return fmt::format("{}{} {}{}", variant.method, bits,
                     variant.group_size > 0 ? fmt::format("g{}", variant.group_size) : "row",
                     elsewhere ? fmt::format(" ({})", short_source(variant.source)) : "");
}

const VariantView* ModelView::baseline() const {
  const auto found = std::find_if(variants.begin(), variants.end(),
                                  [](const VariantView& v) { return v.variant.is_baseline(); });
  return found == variants.end() ? nullptr : &*found;
}

std::optional<std::string> StudyView::meta_text(const std::string& key) const {
  const auto found = meta.find(key);
  return found == meta.end() ? std::nullopt : std::optional(found->second);
}

StudyView load_study(const Store& store) {
  StudyView study;
  for (const char* key : kMetaKeys) {
    if (auto value = store.meta(key)) study.meta[key] = std::move(*value);
  }
  for (Cell& cell : store.cells()) {
    const Variant id = cell.variant;
    ModelView& model = find_or_add(
        study.models, [&](const ModelView& m) { return m.name == id.model; },
        [&] {
          return ModelView{id.model, {}, stored_analysis(id.model, store.analysis(id.model))};
        });
    VariantView& variant = find_or_add(
        model.variants, [&](const VariantView& v) { return v.variant == id; },
        [&] {
          return VariantView{id, store.facts(id), {}};
        });
    if (is_task(cell.task) &&
        std::find(study.tasks.begin(), study.tasks.end(), cell.task) == study.tasks.end()) {
      study.tasks.push_back(cell.task);
    }
    variant.tasks.push_back(to_task_view(std::move(cell), store));
  }
  for (ModelView& model : study.models) {
    std::stable_partition(model.variants.begin(), model.variants.end(),
                          [](const VariantView& v) { return v.variant.is_baseline(); });
  }
  compare_with_baselines(study);
  return study;
}

}  // namespace nibble::report
