#include "report/choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "report/format.h"

namespace nibble::report {
namespace {

constexpr double kBlowUp = 1.5;            // as the rule "Perplexity blow-up"
constexpr double kSameSize = 1.02;         // files this close count as equal
constexpr double kRoughResolution = 0.03;  // a loss above this that would not show is worth a word

struct Candidate {
  const VariantView* variant;
  double log_perplexity_ratio = 0;  // mean over the perplexity tasks
  double accuracy_change = 0;       // mean over the accuracy tasks
  double unseen = 0;                // the largest loss that some accuracy task could not have shown
  std::string unseen_task;
  std::vector<std::string> lost;  // accuracy tasks with a measurable loss
  std::vector<std::string> worse_text;
  bool blow_up = false;

  bool keeps() const { return lost.empty() && !blow_up; }
  double bytes() const { return static_cast<double>(variant->facts->file_bytes); }
};

// None where a cell is missing: what was not measured cannot be recommended.
std::optional<Candidate> judge(const VariantView& variant) {
  if (variant.variant.is_baseline() || !variant.facts || variant.facts->file_bytes == 0) return std::nullopt;
  Candidate candidate{&variant, 0, 0, 0, "", {}, {}, false};
  int accuracies = 0, perplexities = 0;
  for (const TaskView& cell : variant.tasks) {
    if (!is_task(cell.task)) continue;
    const Comparison& c = cell.to_baseline;
    if (!cell.result || !c.comparable()) return std::nullopt;
    if (c.is_ratio) {
      ++perplexities;
      candidate.log_perplexity_ratio += c.difference;
      candidate.blow_up |= !(std::exp(c.difference) <= kBlowUp);
      if (c.verdict == Verdict::kWorse)
        candidate.worse_text.push_back(fmt::format("{} {}", cell.task, difference_text(c)));
      continue;
    }
    ++accuracies;
    candidate.accuracy_change += c.difference;
    if (c.verdict == Verdict::kWorse) candidate.lost.push_back(cell.task);
    if (c.verdict == Verdict::kNone && c.smallest_detectable > candidate.unseen) {
      candidate.unseen = c.smallest_detectable;
      candidate.unseen_task = fmt::format("{}, {}", cell.task, counted(c.pairs, "row"));
    }
  }
  if (accuracies + perplexities == 0) return std::nullopt;
  candidate.accuracy_change /= std::max(1, accuracies);
  candidate.log_perplexity_ratio /= std::max(1, perplexities);
  return candidate;
}

const Candidate& smallest(const std::vector<Candidate>& kept) {
  const auto by_size = [](const Candidate& a, const Candidate& b) { return a.bytes() < b.bytes(); };
  const double most = kSameSize * std::min_element(kept.begin(), kept.end(), by_size)->bytes();
  const Candidate* best = nullptr;
  for (const Candidate& c : kept) {
    if (c.bytes() <= most && (!best || c.log_perplexity_ratio < best->log_perplexity_ratio)) best = &c;
  }
  return *best;
}

Choice choose_for(const ModelView& model) {
  Choice choice;
  choice.model = &model;
  std::vector<Candidate> all, kept;
  size_t quantized = 0;
  for (const VariantView& variant : model.variants) {
    quantized += !variant.variant.is_baseline();
    if (auto candidate = judge(variant)) all.push_back(std::move(*candidate));
  }
  if (all.empty()) {
    choice.reason = quantized == 0 ? "The plan has no quantized variant of this model."
                                   : "No quantized variant has a result for every task that compares with "
                                     "the baseline's.";
    return choice;
  }
  std::copy_if(all.begin(), all.end(), std::back_inserter(kept),
               [](const Candidate& c) { return c.keeps(); });
  choice.keeps = !kept.empty();
  const Candidate& best =
      choice.keeps
          ? smallest(kept)
          : *std::max_element(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
              return std::tuple(!a.blow_up, a.accuracy_change) < std::tuple(!b.blow_up, b.accuracy_change);
            });
  choice.variant = best.variant;
  const auto equals = std::count_if(kept.begin(), kept.end(), [&](const Candidate& c) {
    return c.bytes() <= kSameSize * best.bytes() && best.bytes() <= kSameSize * c.bytes();
  });
  if (choice.keeps) {
    choice.reason =
        kept.size() == 1
            ? fmt::format("The only one of {} that loses no measurable accuracy on any task.",
                          counted(all.size(), "configuration"))
            : fmt::format(
                  "Smallest file of the {} (of {}) that lose no measurable accuracy on any "
                  "task{}.",
                  kept.size(), counted(all.size(), "configuration"),
                  equals > 1 ? "; files within 2 % count as equal, the lower perplexity decides" : "");
  } else {
    choice.reason =
        fmt::format("None of {} keeps the baseline's quality; this one loses least: {}.",
                    counted(all.size(), "configuration"),
                    best.blow_up ? std::string("its perplexity blows up")
                                 : fmt::format("measurably worse on {}", fmt::join(best.lost, ", ")));
  }
  for (const std::string& text : best.worse_text)
    choice.cautions.push_back("Perplexity is measurably worse: " + text + ".");
  if (best.unseen > kRoughResolution) {
    choice.cautions.push_back(fmt::format("A loss of less than {} points would not have shown ({}).",
                                          percent(best.unseen), best.unseen_task));
  }
  if (all.size() < quantized)
    choice.cautions.push_back(fmt::format("{} left out: not every task was measured.",
                                          counted(quantized - all.size(), "configuration")));
  return choice;
}

}  // namespace

std::vector<Choice> choose(const StudyView& study) {
  std::vector<Choice> choices;
  for (const ModelView& model : study.models) choices.push_back(choose_for(model));
  return choices;
}

}  // namespace nibble::report
