#include "report/critical_issues.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/format.h"
#include "report/rules.h"

namespace nibble::report {
namespace {

// Cells without a result, those of one model and reason together.
RuleResult missing_data(const StudyView& study) {
  RuleResult result;
  for (const ModelView& model : study.models) {
    std::vector<std::pair<std::string, std::vector<std::string>>> by_reason;
    const auto add = [&](const std::string& reason, std::string cell) {
      auto found =
          std::find_if(by_reason.begin(), by_reason.end(), [&](const auto& r) { return r.first == reason; });
      if (found == by_reason.end()) found = by_reason.insert(found, {reason, {}});
      found->second.push_back(std::move(cell));
    };
    for (const VariantView& variant : model.variants) {
      for (const TaskView& cell : variant.tasks) {
        ++result.judged;
        const Comparison& c = cell.to_baseline;
        if (!cell.missing.empty()) {
          add(cell.missing, cell_name(variant, cell));
        } else if (cell.result && c.not_comparable == kNoBaseline) {
          add(fmt::format("measured, but compared with nothing: {}", kNoBaseline), cell_name(variant, cell));
        } else if (cell.result && !variant.variant.is_baseline() && !c.comparable() &&
                   !c.not_comparable.starts_with(kBaselineMissing)) {
          add("measured, but not comparable with its baseline: " + c.not_comparable,
              cell_name(variant, cell));
        }
      }
    }
    for (auto& [reason, cells] : by_reason) {
      Issue issue;
      issue.where = model.name;
      issue.finding = cells.size() == 1 ? fmt::format("{}: {}", cells.front(), reason)
                                        : fmt::format("{} cells: {}", cells.size(), reason);
      issue.threshold = "every cell of the plan has a result";
      for (std::string& cell : cells) issue.evidence.push_back({std::move(cell), reason});
      const bool waiting = reason == kNotRunYet, failed = !reason.starts_with("measured");
      const bool alone = reason.ends_with(kNoBaseline);
      issue.cause = waiting  ? "the study was stopped or is still running; the same command goes on"
                    : failed ? "the process of the cell failed"
                    : alone  ? "name it among the models too, or as 'of' in the study file"
                             : "the cells were measured with different settings or data";
      result.issues.push_back(std::move(issue));
    }
  }
  return result;
}

// Rules that could not be judged, as issues of the missing-data rule.
void add_not_judged(const std::vector<RuleCheck>& checks, std::vector<Issue>& issues) {
  for (const RuleCheck& check : checks) {
    for (const std::string& reason : check.not_judged) {
      issues.push_back({"missing_data",
                        "Missing data",
                        check.title,
                        fmt::format("'{}' cannot be judged: {}", check.title, reason),
                        check.criterion,
                        {{"rule", reason}},
                        "the study does not hold what the rule needs"});
    }
  }
}

struct Rule {
  const char* key;
  const char* title;
  const char* criterion;
  RuleResult (*find)(const StudyView&);
};

constexpr Rule kRules[] = {
    {"math_failure", "Math failure",
     "more than half of the baseline's GSM8K score lost, significantly, with cut, empty and format-broken "
     "answers "
     "set apart",
     math_failure},
    {"memory_paradox", "Memory paradox", "peak memory of a quantized run at or above its baseline's",
     memory_paradox},
    {"slower_than_baseline", "Slower than baseline",
     "prefill or decode throughput of a quantized run below its baseline's by more than the noise",
     slower_than_baseline},
    {"missing_data", "Missing data", "a cell of the plan without a result", missing_data},
    {"inconsistent_benefits", "Inconsistent benefits",
     "which of two methods wins changes across models or datasets, significantly", inconsistent_benefits},
    {"improbable_gain", "Improbable gain", "a quantized model beats its baseline significantly",
     improbable_gain},
    {"constant_answers", "Constant answers", "at least 98 % of the answers the same", constant_answers},
    {"perplexity_blow_up", "Perplexity blow-up", "perplexity more than 1.5 times the baseline's",
     perplexity_blow_up},
    {"impossible_size", "Impossible size", "a file smaller than its parameters at the claimed bits",
     impossible_size},
    {"weights_not_quantized", "Weights not quantized", "outputs equal to the baseline's bit for bit",
     weights_not_quantized},
};

}  // namespace

std::string cell_name(const VariantView& variant, const TaskView& cell) {
  return fmt::format("{}, {}", variant.label(), cell.task);
}

Issue& issue_at(std::vector<Issue>& issues, const std::string& where) {
  const auto found =
      std::find_if(issues.begin(), issues.end(), [&](const Issue& i) { return i.where == where; });
  if (found != issues.end()) return *found;
  issues.emplace_back().where = where;
  return issues.back();
}

CriticalIssues find_critical_issues(const StudyView& study) {
  CriticalIssues all;
  std::vector<std::vector<Issue>> found;
  for (const Rule& rule : kRules) {
    RuleResult result = rule.find(study);
    for (Issue& issue : result.issues) {
      issue.rule = rule.key;
      if (issue.title.empty()) issue.title = rule.title;
    }
    all.checks.push_back({rule.key, rule.title, rule.criterion, result.judged, result.issues.size(),
                          std::move(result.not_judged)});
    found.push_back(std::move(result.issues));
  }
  for (size_t i = 0; i < found.size(); ++i) {
    if (all.checks[i].rule == "missing_data") {
      add_not_judged(all.checks, found[i]);
      all.checks[i].found = found[i].size();
    }
    std::move(found[i].begin(), found[i].end(), std::back_inserter(all.issues));
  }
  return all;
}

}  // namespace nibble::report
