#include "report/rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "report/answers.h"
#include "report/format.h"

namespace nibble::report {
namespace {

constexpr const char* kMathTask = "gsm8k";
constexpr double kMathLoss = 0.5;           // of the baseline's score
constexpr size_t kFewestWholeAnswers = 10;  // fewer cannot tell arithmetic from format
constexpr double kBlowUp = 1.5;

double mean_score(const std::vector<Row>& rows) {
  double sum = 0;
  for (const Row& row : rows) sum += row.score;
  return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
}

// The rows of both that have a whole answer on both sides, paired.
void whole_answers(const std::vector<Row>& a, const std::vector<Row>& b, std::vector<Row>& out_a,
                   std::vector<Row>& out_b) {
  std::map<std::string_view, const Row*> partners;
  for (const Row& row : b) partners[row.key] = &row;
  for (const Row& row : a) {
    const auto found = partners.find(row.key);
    if (found == partners.end()) continue;
    if (answer_state(row) != AnswerState::kWhole || answer_state(*found->second) != AnswerState::kWhole)
      continue;
    out_a.push_back(row);
    out_b.push_back(*found->second);
  }
}

// What the lost answers have become, by the samples: what grew against the baseline, the most first.
std::string cause_apart_from_arithmetic(const AnswerCounts& before, const AnswerCounts& after, size_t rows,
                                        bool enough) {
  struct Kind {
    const char *name, *words;
    size_t before, after;
  };
  std::vector<Kind> kinds = {{"truncation", "cut at the token limit", before.truncated, after.truncated},
                             {"empty answers", "empty", before.empty, after.empty},
                             {"format", "without a number in the asked form", before.broken, after.broken}};
  std::erase_if(kinds, [](const Kind& k) { return k.after <= k.before; });
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const Kind& a, const Kind& b) { return a.after - a.before > b.after - b.before; });
  std::vector<std::string> parts;
  for (const Kind& k : kinds)
    parts.push_back(fmt::format("{}: {} of {} answers are {}, the baseline's {}", k.name, k.after, rows,
                                k.words, k.before));
  if (parts.empty()) parts.emplace_back("no kind of broken answer grew");
  if (!enough) parts.emplace_back("too few whole answers to tell arithmetic from format");
  return fmt::format("{}", fmt::join(parts, "; "));
}

Issue math_issue(const ModelView& model, const TaskView& baseline, const VariantView& variant,
                 const TaskView& cell) {
  std::vector<Row> before, after;
  whole_answers(baseline.rows, cell.rows, before, after);
  const AnswerCounts counts = count_answers(cell.rows);
  Issue issue;
  issue.where = model.name;
  const double b = mean_score(baseline.rows), q = mean_score(cell.rows);
  issue.evidence.push_back(
      {cell_name(variant, cell), fmt::format("{} %, baseline {} %; difference {}", percent(q), percent(b),
                                             difference_text(cell.to_baseline))});
  issue.evidence.push_back(
      {"answers apart", fmt::format("{} of {} cut at the token limit, {} empty, {} without a number "
                                    "in the asked form",
                                    counts.truncated, cell.rows.size(), counts.empty, counts.broken)});
  const Comparison whole = compare(*baseline.result, before, *cell.result, after);
  const bool enough = before.size() >= kFewestWholeAnswers && whole.comparable();
  if (enough) {
    issue.evidence.push_back({fmt::format("{} whole on both sides", counted(before.size(), "answer")),
                              fmt::format("{} %, baseline {} %; difference {}", percent(mean_score(after)),
                                          percent(mean_score(before)), difference_text(whole))});
  }
  const bool arithmetic =
      enough && mean_score(after) < kMathLoss * mean_score(before) && whole.verdict == Verdict::kWorse;
  issue.threshold = fmt::format(
      "score below {} % of the baseline's, interval of the difference below 0, also among whole "
      "answers",
      percent(kMathLoss));
  if (arithmetic) {
    issue.finding =
        fmt::format("{} solves {} % of the problems, the baseline {} %, and whole answers are wrong, too",
                    variant.label(), percent(q), percent(b));
    issue.cause =
        "arithmetic: the quantized weights no longer carry it, with fewer bits or larger groups than it "
        "bears";
  } else {
    issue.title = "Math score lost, not shown to be arithmetic";
    issue.finding = fmt::format(
        "{} solves {} % of the problems, the baseline {} %, but {} of {} answers are cut, empty or "
        "not in the asked form",
        variant.label(), percent(q), percent(b), counts.not_whole(), cell.rows.size());
    issue.cause = cause_apart_from_arithmetic(count_answers(baseline.rows), counts, cell.rows.size(), enough);
  }
  return issue;
}

}  // namespace

RuleResult math_failure(const StudyView& study) {
  RuleResult result;
  for_each_quantized(
      study, false,
      [&](const ModelView& model, const TaskView* baseline, const VariantView& variant,
          const TaskView& cell) {
        if (cell.task != kMathTask || !baseline || !cell.to_baseline.comparable()) return;
        ++result.judged;
        const double before = mean_score(baseline->rows);
        if (before <= 0) return;
        if (mean_score(cell.rows) >= kMathLoss * before || cell.to_baseline.verdict != Verdict::kWorse)
          return;
        result.issues.push_back(math_issue(model, *baseline, variant, cell));
      });
  if (result.judged == 0) result.not_judged = {"no quantized GSM8K cell that compares with its baseline"};
  return result;
}

RuleResult improbable_gain(const StudyView& study) {
  RuleResult result;
  for_each_quantized(
      study, false,
      [&](const ModelView& model, const TaskView* baseline, const VariantView& variant,
          const TaskView& cell) {
        const Comparison& c = cell.to_baseline;
        if (!c.comparable()) return;
        ++result.judged;
        if (c.verdict != Verdict::kBetter) return;
        Issue& issue = issue_at(result.issues, fmt::format("{} {}", model.name, cell.task));
        issue.threshold = "the 95 % interval of the paired difference excludes 0 on the better side";
        std::string figure = difference_text(c);
        if (!c.is_ratio) {
          figure +=
              fmt::format("; {} answers right→wrong, {} wrong→right", c.right_to_wrong, c.wrong_to_right);
        }
        figure += fmt::format("; p {}, {} after Holm's correction for {}", p_value(c.p), p_value(c.p_holm),
                              counted(study.comparisons, "comparison"));
        issue.evidence.push_back({cell_name(variant, cell), figure});
        const auto before = constant_answer(*baseline), after = constant_answer(cell);
        const auto describe = [](const auto& constant) {
          return constant
                     ? fmt::format("{} on {} % of the rows", constant->quoted(), percent(constant->share))
                     : std::string("answers vary");
        };
        if (!c.is_ratio) {
          issue.evidence.push_back({"constant-answer check", fmt::format("quantized: {}; baseline: {}",
                                                                         describe(after), describe(before))});
        }
        if (after || before) {
          issue.cause = "one side answers the same whatever is asked, so the score follows the labels";
        } else if (c.p_holm >= 0.05) {
          issue.cause = "chance: it does not survive the correction for the number of comparisons";
        } else {
          issue.cause =
              "rounding moved a biased decision in the labels' favour, or calibration text resembles the "
              "task";
        }
        if (issue.finding.empty()) {
          issue.finding =
              fmt::format("{} scores better than its baseline: {}", variant.label(), difference_text(c));
        }
      });
  if (result.judged == 0) result.not_judged = {"no quantized cell that compares with its baseline"};
  return result;
}

namespace {

// What is constant about a cell's answers, in words; empty where nothing is.
std::string constancy(const TaskView& cell) {
  if (const auto constant = constant_answer(cell)) {
    return fmt::format("{} on {} % of {} rows, which earns {} %", constant->quoted(),
                       percent(constant->share), cell.rows.size(), percent(constant->right_share));
  }
  // MS MARCO keeps a balanced sample; over all passages a constant No looks like a high accuracy.
  const auto& checks = cell.result->checks;
  const auto share = checks.find("answer_share_no_all");
  if (share == checks.end() || !(share->second >= kConstantShare)) return "";
  const auto always = checks.find("always_no_accuracy");
  return fmt::format(
      "'No' on {} % of all passages{}", percent(share->second),
      always == checks.end() ? "" : fmt::format(", where always No earns {} %", percent(always->second)));
}

}  // namespace

RuleResult constant_answers(const StudyView& study) {
  RuleResult result;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      for (const TaskView& cell : variant.tasks) {
        if (!cell.result || is_perplexity(*cell.result) || cell.rows.size() < kFewestRowsForConstant)
          continue;
        ++result.judged;
        const std::string figure = constancy(cell);
        if (figure.empty()) continue;
        Issue& issue = issue_at(result.issues, fmt::format("{} {}", model.name, cell.task));
        issue.evidence.push_back({cell_name(variant, cell), figure});
        issue.threshold = fmt::format("fewer than {} % of the answers the same", percent(kConstantShare));
        if (!issue.finding.empty()) continue;
        issue.finding =
            fmt::format("{} answers {}: its score says nothing about understanding", variant.label(), figure);
        issue.cause = variant.variant.is_baseline()
                          ? "the model itself cannot do this task as it is asked"
                          : "quantization collapsed the decision; the baseline's answers vary";
      }
    }
  }
  if (result.judged == 0) {
    result.not_judged = {fmt::format("no cell with at least {} answers stored", kFewestRowsForConstant)};
  }
  return result;
}

RuleResult perplexity_blow_up(const StudyView& study) {
  RuleResult result;
  for_each_quantized(
      study, false,
      [&](const ModelView& model, const TaskView* baseline, const VariantView& variant,
          const TaskView& cell) {
        if (!baseline || !baseline->result || !cell.to_baseline.comparable()) return;
        for (const auto& [name, metric] : cell.result->metrics) {
          const auto before = baseline->result->metrics.find(name);
          // word_ppl has another base: its ratio is a power of the token perplexity's.
          if (!(name == "ppl" || (name.ends_with("_ppl") && name != "word_ppl"))) continue;
          if (before == baseline->result->metrics.end() || !(before->second.value > 0)) continue;
          ++result.judged;
          const double ratio = metric.value / before->second.value;
          if (ratio <= kBlowUp) continue;  // a NaN is a blow-up, too
          Issue& issue = issue_at(result.issues, fmt::format("{} {}", model.name, cell.task));
          issue.evidence.push_back({cell_name(variant, cell),
                                    fmt::format("{} {}, baseline {}: ×{}", name, perplexity(metric.value),
                                                perplexity(before->second.value), fixed(ratio, 2))});
          issue.threshold = fmt::format("ratio at most {}", fixed(kBlowUp, 1));
          issue.cause =
              "too few bits or too large groups for this model, or a layer whose fallback is missing";
          if (issue.finding.empty()) {
            issue.finding = fmt::format("{}: {}", issue.evidence.front().cell, issue.evidence.front().figure);
          }
        }
      });
  if (result.judged == 0)
    result.not_judged = {"no perplexity stored for both a quantized variant and its baseline"};
  return result;
}

}  // namespace nibble::report
