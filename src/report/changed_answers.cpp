#include "report/changed_answers.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace nibble::report {
namespace {

constexpr size_t kLongestPrompt = 1600, kLongestOutput = 900;  // bytes

// Not in the middle of a character.
size_t character_start(const std::string& text, size_t at) {
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}

Answer to_answer(const Sample& sample) {
  Answer answer{sample.prediction, "", sample.score >= 0.5};
  if (sample.output == sample.prediction) return answer;
  answer.output = sample.output;
  if (answer.output.size() > kLongestOutput) {
    answer.output.resize(character_start(answer.output, kLongestOutput));
    answer.output += " …";
  }
  return answer;
}

size_t size_of(const Answer& a) { return a.prediction.size() + a.output.size() + 24; }
size_t size_of(const ChangedRow& row) {
  size_t size = row.key.size() + row.gold.size() + row.prompt.size() + size_of(row.baseline) + 64;
  for (const auto& [variant, answer] : row.changed) size += size_of(answer);
  return size;
}

// A row of the baseline and where the variants that answer it otherwise keep theirs.
struct ChangedAnswer {
  size_t position;
  bool flips;                                       // some of them right where it was wrong, or wrong
  std::vector<std::pair<size_t, size_t>> variants;  // index in the model, position of its sample
};

bool is_right(const Row& row) { return row.score >= 0.5; }

std::vector<ChangedAnswer> changes_of(const ModelView& model, const VariantView& baseline,
                                      const TaskView& reference) {
  std::vector<ChangedAnswer> changes;
  for (size_t i = 0; i < reference.rows.size(); ++i) changes.push_back({i, false, {}});
  for (size_t v = 0; v < model.variants.size(); ++v) {
    const VariantView& variant = model.variants[v];
    const TaskView* cell = variant.find(reference.task);
    if (&variant == &baseline || !cell || !cell->result || !cell->to_baseline.comparable()) continue;
    std::unordered_map<std::string_view, size_t> places;
    for (size_t i = 0; i < cell->rows.size(); ++i) places[cell->rows[i].key] = i;
    for (size_t i = 0; i < reference.rows.size(); ++i) {
      const auto place = places.find(reference.rows[i].key);
      if (place == places.end()) continue;
      const Row& before = reference.rows[i];
      const Row& after = cell->rows[place->second];
      if (before.prediction == after.prediction && is_right(before) == is_right(after)) continue;
      changes[i].flips |= is_right(before) != is_right(after);
      changes[i].variants.emplace_back(v, place->second);
    }
  }
  std::erase_if(changes, [](const ChangedAnswer& c) { return c.variants.empty(); });
  std::stable_partition(changes.begin(), changes.end(), [](const ChangedAnswer& c) { return c.flips; });
  return changes;
}

// With the texts out of the store.
std::optional<ChangedRow> read_row(const Store& store, const ModelView& model, const VariantView& baseline,
                                   const std::string& task, const ChangedAnswer& change) {
  std::optional<Sample> sample = store.sample(baseline.variant, task, change.position);
  if (!sample) return std::nullopt;
  ChangedRow row;
  row.key = std::move(sample->key);
  row.gold = std::move(sample->gold);
  if (sample->prompt.size() > kLongestPrompt)
    row.prompt_left_out = character_start(sample->prompt, sample->prompt.size() - kLongestPrompt);
  row.prompt = sample->prompt.substr(row.prompt_left_out);
  row.baseline = to_answer(*sample);
  for (const auto& [variant, position] : change.variants) {
    if (const auto other = store.sample(model.variants[variant].variant, task, position))
      row.changed.emplace_back(variant, to_answer(*other));
  }
  return row;
}

ChangedAnswers of_task(const Store& store, const ModelView& model, const VariantView& baseline,
                       const TaskView& reference, size_t budget) {
  const std::vector<ChangedAnswer> changes = changes_of(model, baseline, reference);
  ChangedAnswers found{model.name, reference.task, reference.rows.size(), changes.size(), {}};
  size_t used = 0;
  for (const ChangedAnswer& change : changes) {
    auto row = read_row(store, model, baseline, reference.task, change);
    if (!row) continue;
    used += size_of(*row);
    if (used > budget) break;
    found.shown.push_back(std::move(*row));
  }
  return found;
}

}  // namespace

std::vector<ChangedAnswers> changed_answers(const Store& store, const StudyView& study, size_t budget) {
  struct Place {
    const ModelView* model;
    const VariantView* baseline;
    const TaskView* cell;
  };
  std::vector<Place> places;
  for (const ModelView& model : study.models) {
    const VariantView* baseline = model.baseline();
    if (!baseline) continue;
    for (const TaskView& cell : baseline->tasks) {
      if (cell.result && !is_perplexity(*cell.result)) places.push_back({&model, baseline, &cell});
    }
  }
  std::vector<ChangedAnswers> all;
  for (size_t i = 0; i < places.size(); ++i) {
    // What one leaves the next ones may use.
    const size_t share = budget / (places.size() - i);
    ChangedAnswers found = of_task(store, *places[i].model, *places[i].baseline, *places[i].cell, share);
    size_t used = 0;
    for (const ChangedRow& row : found.shown) used += size_of(row);
    budget -= std::min(budget, used);
    all.push_back(std::move(found));
  }
  return all;
}

}  // namespace nibble::report
