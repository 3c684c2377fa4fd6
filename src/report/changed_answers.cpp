#include "report/changed_answers.h"

#include <algorithm>
#include <map>

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

// Rows whose rightness changed first, else as in the data.
bool flips(const ChangedRow& row) {
  return std::any_of(row.changed.begin(), row.changed.end(),
                     [&](const auto& c) { return c.second.right != row.baseline.right; });
}

ChangedAnswers of_task(const Store& store, const ModelView& model, const VariantView& baseline,
                       const TaskView& reference, size_t budget) {
  ChangedAnswers found{model.name, reference.task, reference.rows.size(), 0, {}};
  const std::vector<Sample> before = store.samples(baseline.variant, reference.task);
  std::map<std::string_view, ChangedRow> rows;
  for (size_t v = 0; v < model.variants.size(); ++v) {
    const VariantView& variant = model.variants[v];
    const TaskView* cell = variant.find(reference.task);
    if (&variant == &baseline || !cell || !cell->result || !cell->to_baseline.comparable()) continue;
    std::map<std::string_view, const Sample*> partners;
    const std::vector<Sample> after = store.samples(variant.variant, reference.task);
    for (const Sample& sample : after) partners[sample.key] = &sample;
    for (const Sample& sample : before) {
      const auto partner = partners.find(sample.key);
      if (partner == partners.end()) continue;
      const Sample& other = *partner->second;
      if (other.prediction == sample.prediction && (other.score >= 0.5) == (sample.score >= 0.5)) continue;
      rows[sample.key].changed.emplace_back(v, to_answer(other));
    }
  }
  found.changed = rows.size();
  for (const Sample& sample : before) {
    const auto row = rows.find(sample.key);
    if (row == rows.end()) continue;
    ChangedRow& r = row->second;
    r.key = sample.key;
    r.gold = sample.gold;
    if (sample.prompt.size() > kLongestPrompt)
      r.prompt_left_out = character_start(sample.prompt, sample.prompt.size() - kLongestPrompt);
    r.prompt = sample.prompt.substr(r.prompt_left_out);
    r.baseline = to_answer(sample);
    found.shown.push_back(std::move(r));
  }
  std::stable_partition(found.shown.begin(), found.shown.end(), flips);
  size_t used = 0, fit = 0;
  for (; fit < found.shown.size(); ++fit) {
    used += size_of(found.shown[fit]);
    if (used > budget) break;
  }
  found.shown.resize(fit);
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
