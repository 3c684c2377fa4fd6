#include "report/markdown.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/columns.h"
#include "report/fallbacks.h"
#include "report/finetuning.h"
#include "report/format.h"
#include "report/head.h"

namespace nibble::report {
namespace {

constexpr std::string_view kReproduce =
    "Reproduce: `nibble study study.toml --out DIR` with the study file at the end of this page, then "
    "`nibble report "
    "DIR`.\n\n";
constexpr size_t kMostFallbacks = 12;  // of one variant; report.json has all
constexpr size_t kMostEvidence = 12;   // a list in an issue; report.json has all
constexpr size_t kMostLinears = 8;     // of a model, the most sensitive; results.csv has all

std::vector<ColumnRow> variant_rows(const StudyView& study) {
  std::vector<ColumnRow> rows;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) rows.push_back({model, variant, nullptr});
  }
  return rows;
}

std::vector<ColumnRow> task_rows(const StudyView& study, const std::string& task) {
  std::vector<ColumnRow> rows;
  for (const ColumnRow& row : variant_rows(study)) {
    if (const TaskView* cell = row.variant.find(task)) rows.push_back({row.model, row.variant, cell});
  }
  return rows;
}

std::string head(const StudyView& study) {
  std::string out = "# Results\n\n";
  for (const auto& [name, value] : head_of(study)) out += fmt::format("- {}: {}\n", name, one_line(value));
  out += fmt::format("- plan: {}\n\n", progress_of(study));
  return out + to_markdown(tasks_table(study)) + "\n";
}

std::string table_1(const Report& report) {
  TextTable table;
  table.heads = {{"Model"},          {"Dataset"},       {"Metric"},         {"Baseline"},
                 {"Best quantized"}, {"Configuration"}, {"Difference"},     {"Significance"},
                 {"Memory"},         {"Size"},          {"Key observation"}};
  for (const Table1Row& row : report.table1) {
    const TaskView* measured = row.missing_baseline.empty() ? row.baseline_cell : row.best_cell;
    std::string metric = "–";
    if (measured && measured->result)
      metric = measured->result->primary + (is_perplexity(*measured->result) ? "" : " %");
    const bool compared = row.best && row.best_cell->to_baseline.comparable();
    table.rows.push_back({row.model, row.task, metric, score_text(row.baseline_cell, row.missing_baseline),
                          score_text(row.best_cell, row.missing_best), row.best ? row.best->label() : "–",
                          compared ? difference_text(row.best_cell->to_baseline) : "–",
                          row.best ? significance_text(row.best_cell->to_baseline) : "–",
                          change_in_full(row.memory, row.missing_memory),
                          change_in_full(row.size, row.missing_size), row.observation});
  }
  std::string out = "## Table 1: baseline and best quantized\n\n";
  out +=
      "Scores with their 95 % interval; accuracies in %, differences in points with their paired 95 % "
      "interval, "
      "perplexities as the ratio ×.\nA difference is better or worse only where its interval excludes 0; "
      "else the "
      "smallest difference that this many rows find with 80 % power is named.\nMemory is the peak RSS of the "
      "cell's own "
      "process against the baseline's on the same dataset, size the file; − is less. The best is picked on "
      "the rows "
      "it is scored on,\nwhich flatters it; configurations that cannot be told apart are called a tie and "
      "resolved to "
      "the smallest file.\n\n";
  return out + to_markdown(table) + "\n" + std::string(kReproduce);
}

std::string critical_issues(const CriticalIssues& found) {
  std::string out = "## Critical issues\n\n";
  if (found.issues.empty()) {
    out += "None of the rules found anything.\n\n";
  } else {
    TextTable table;
    table.heads = {{"#", Align::kRight}, {"Issue"}, {"Where"}, {"Finding"}};
    for (size_t i = 0; i < found.issues.size(); ++i) {
      const Issue& issue = found.issues[i];
      table.rows.push_back({fmt::format("{}", i + 1), issue.title, issue.where, issue.finding});
    }
    out += to_markdown(table) + "\n";
    for (size_t i = 0; i < found.issues.size(); ++i) {
      const Issue& issue = found.issues[i];
      if (issue.rule == "missing_data" && issue.evidence.size() == 1) continue;  // the finding says it all
      out += fmt::format("**{}. {}: {}.** Held against: {}. Likely cause: {}.\n\n", i + 1, issue.title,
                         one_line(issue.where), issue.threshold, issue.cause);
      if (issue.evidence.size() == 1) continue;  // the finding has named it
      for (size_t e = 0; e < std::min(kMostEvidence, issue.evidence.size()); ++e) {
        out +=
            fmt::format("- {}: {}\n", one_line(issue.evidence[e].cell), one_line(issue.evidence[e].figure));
      }
      if (issue.evidence.size() > kMostEvidence) {
        out += fmt::format("- and {} more in report.json\n", issue.evidence.size() - kMostEvidence);
      }
      out += "\n";
    }
  }
  TextTable rules;
  rules.heads = {{"Rule"}, {"Fires when"}, {"Judged", Align::kRight}, {"Found", Align::kRight}};
  for (const RuleCheck& check : found.checks) {
    rules.rows.push_back(
        {check.title, check.criterion, fmt::format("{}", check.judged), fmt::format("{}", check.found)});
  }
  out +=
      "Every issue is found by its rule from the stored results. A rule that judged nothing says why under "
      "Missing "
      "data.\n\n";
  return out + to_markdown(rules) + "\n";
}

std::string deploy(const std::vector<Recommendation>& choices) {
  if (choices.empty()) return "";
  std::string out =
      "## What to deploy\n\nBy the rule of `nibble recommend`, without limits: the best scores, and of "
      "configurations that cannot be told apart the smallest. `nibble recommend DIR --help` lists the "
      "limits.\n\n";
  for (const Recommendation& r : choices) {
    if (r.choice) {
      out += fmt::format("**{}** ({})\n\n", one_line(r.candidates[*r.choice].label()), verdict_name(r));
    } else {
      out += fmt::format("**{}**: no configuration has a score on every task\n\n",
                         one_line(r.spec.models.front()));
    }
    for (const auto& [label, text] : reasons(r)) out += fmt::format("- {}: {}\n", label, one_line(text));
    for (const size_t i : r.choice ? std::vector<size_t>() : runners_up(r))
      out += fmt::format("- {}: {}\n", r.candidates[i].variant->label(), one_line(why_not(r, i)));
    out += "\n";
  }
  return out;
}

std::string scores(const StudyView& study) {
  std::string out = fmt::format(
      "## Scores\n\nEvery cell against the baseline of its model, paired by row. Significance is what the 95 "
      "% "
      "interval of the difference says;\np is McNemar's exact test, by clusters where rows share one "
      "(perplexities: paired t-test), and p (Holm) is corrected over all {} of this report.\n\n",
      counted(study.comparisons, "comparison"));
  for (const std::string& task : study.tasks) {
    out += fmt::format("### {}\n\n", one_line(task));
    out += to_markdown(to_table(score_columns(), task_rows(study, task), {"dataset"})) + "\n" +
           std::string(kReproduce);
  }
  return out;
}

std::string efficiency(const StudyView& study) {
  std::string out =
      "## Size, speed and memory\n\nBits per weight are those of the whole file. Prefill and decode: mean ± "
      "standard "
      "deviation over the repetitions of `nibble bench`\nin a fresh process; memory by part is of that "
      "process, other = "
      "peak − weights − KV cache − workspace. MB = 10⁶ bytes.\n\n";
  out += to_markdown(to_table(efficiency_columns(), variant_rows(study))) + "\n" + std::string(kReproduce);
  for (const std::string& task : study.tasks) {
    out += fmt::format("### Speed and memory on {}\n\n", one_line(task));
    out += to_markdown(to_table(speed_columns(), task_rows(study, task), {"dataset"})) + "\n" +
           std::string(kReproduce);
  }
  return out;
}

// Layers with the same fallback for the same reason together: "layers.0.w_q and 3 more".
std::vector<std::pair<std::string, Fallback>> grouped(const std::vector<Fallback>& all) {
  std::vector<std::pair<size_t, Fallback>> groups;
  for (const Fallback& f : all) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& g) {
      return g.second.fallback == f.fallback && g.second.reason == f.reason;
    });
    if (same == groups.end())
      groups.emplace_back(1, f);
    else
      ++same->first;
  }
  std::vector<std::pair<std::string, Fallback>> named;
  for (auto& [n, f] : groups) {
    named.emplace_back(n == 1 ? f.layer : fmt::format("{} and {} more", f.layer, n - 1), std::move(f));
  }
  return named;
}

std::string fallbacks(const StudyView& study) {
  TextTable table;
  table.heads = {{"Model"}, {"Configuration"}, {"Layer"}, {"Fallback"}, {"Reason"}};
  std::string unknown;
  for (const ColumnRow& row : variant_rows(study)) {
    if (!row.variant.variant.is_made_here()) continue;
    if (!row.variant.facts || row.variant.facts->quantization_report.is_null()) {
      unknown += fmt::format("- {} {}: missing (no quantization report stored)\n", one_line(row.model.name),
                             row.variant.label());
      continue;
    }
    const Json& report = row.variant.facts->quantization_report;
    size_t left_out = 0;
    for (const auto& [layers, f] : grouped(fallbacks_of(report))) {
      if (++left_out > kMostFallbacks) continue;
      table.rows.push_back({row.model.name, row.variant.label(), layers,
                            f.fallback.empty() ? "–" : f.fallback,
                            f.reason.empty() ? "not stated" : f.reason});
    }
    if (left_out > kMostFallbacks) {
      table.rows.push_back({row.model.name, row.variant.label(), "more layers", "–",
                            fmt::format("{} more in report.json", left_out - kMostFallbacks)});
    }
    for (const std::string& warning : warnings_of(report)) {
      table.rows.push_back({row.model.name, row.variant.label(), "whole model", "–", warning});
    }
  }
  std::string out = "## Fallbacks of the quantizers\n\n";
  out += table.rows.empty() ? "No stored quantization report names a fallback or a remark.\n"
                            : to_markdown(table);
  return out + "\n" + unknown + (unknown.empty() ? "" : "\n") + std::string(kReproduce);
}

std::string scientific(double value) { return std::isfinite(value) ? fmt::format("{:.2e}", value) : "–"; }

// The most sensitive linears, by KL where there is one, else by the error at the largest group size.
TextTable sensitive_linears(const AnalysisView& a) {
  const auto by = [&](const AnalyzedLinear* l) { return a.has_kl() ? l->kl : l->errors.back(); };
  std::vector<const AnalyzedLinear*> order;
  for (const AnalyzedLinear& l : a.linears) {
    if (std::isfinite(by(&l))) order.push_back(&l);
  }
  std::stable_sort(order.begin(), order.end(), [&](const auto* x, const auto* y) { return by(x) > by(y); });
  order.resize(std::min(order.size(), kMostLinears));
  TextTable table{{{"Linear"}}, {}, {}};
  if (a.has_kl()) table.heads.push_back({fmt::format("KL {}", a.probe.label()), Align::kRight});
  const auto shown = [&](const AnalysisView::Choice& c) { return c.bits == a.probe.bits || !a.has_kl(); };
  for (const AnalysisView::Choice& c : a.choices) {
    if (shown(c)) table.heads.push_back({fmt::format("Error {}", c.label()), Align::kRight});
  }
  for (const AnalyzedLinear* l : order) {
    auto& row = table.rows.emplace_back(std::vector<std::string>{l->name});
    if (a.has_kl()) row.push_back(scientific(l->kl));
    for (size_t c = 0; c < a.choices.size(); ++c) {
      if (shown(a.choices[c])) row.push_back(scientific(l->errors[c]));
    }
  }
  return table;
}

std::string sensitivity(const StudyView& study) {
  std::string out;
  for (const ModelView& model : study.models) {
    if (!model.analysis.view) continue;
    const AnalysisView& a = *model.analysis.view;
    out += fmt::format(
        "### {}\n\nOutput errors are relative, on {} tokens of calibration text{}. The most sensitive of "
        "{}:\n\n",
        one_line(model.name), a.tokens,
        a.has_kl() ? fmt::format("; KL in nats over {} positions of it", a.kl_positions) : "",
        counted(a.linears.size(), "linear"));
    out += to_markdown(sensitive_linears(a)) + "\n";
    if (a.layers.empty()) continue;
    TextTable layers{{{"Layer", Align::kRight}}, {}, {}};
    for (const int group : a.group_sizes)
      layers.heads.push_back({"KL " + AnalysisView::Choice{a.probe.bits, group}.label(), Align::kRight});
    for (const AnalysisView::Layer& l : a.layers) {
      auto& row = layers.rows.emplace_back(std::vector<std::string>{std::to_string(l.layer)});
      for (const double kl : l.kl) row.push_back(scientific(kl));
    }
    out += "With a whole layer rounded:\n\n" + to_markdown(layers) + "\n";
  }
  if (out.empty()) return "";
  return "## Sensitivity of the layers\n\nEach linear of the unquantized model rounded alone (`nibble "
         "analyze`).\n\n" +
         out;
}

std::string reproduce(const StudyView& study) {
  std::string out = "## The study file\n\n";
  const auto toml = study.meta_text("study_toml");
  if (!toml) return out + "missing (not stored in results.db)\n";
  // A fence longer than any in the file.
  std::string fence = "```";
  while (toml->find(fence) != std::string::npos) fence += '`';
  return out + fence + "toml\n" + *toml + (toml->ends_with('\n') ? "" : "\n") + fence + "\n";
}

}  // namespace

std::string render_markdown(const Report& report) {
  return head(report.study) + table_1(report) + deploy(report.choices) + critical_issues(report.issues) +
         scores(report.study) + render_fine_tuned(report.finetuned) + efficiency(report.study) +
         fallbacks(report.study) + sensitivity(report.study) + reproduce(report.study);
}

}  // namespace nibble::report
