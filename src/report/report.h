// The report of a study: what it says, and its files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "report/changed_answers.h"
#include "report/critical_issues.h"
#include "report/finetuning.h"
#include "report/recommend.h"
#include "report/study_view.h"
#include "report/table1.h"
#include "study/store.h"

namespace nibble::report {

// Everything that the renderers show. Moves, never copies: Table 1 and
// the fine-tuned pairs point into the study.
struct Report {
  StudyView study;
  std::vector<Table1Row> table1;
  CriticalIssues issues;
  std::vector<Recommendation> choices;   // without limits; one a model, in their order; none without any task
  std::vector<FineTunedPair> finetuned;  // as the study names them
  std::vector<ChangedAnswers> answers;   // what the page can show of them

  Report() = default;
  Report(Report&&) = default;
  Report& operator=(Report&&) = default;
};

Report make_report(const Store& store);

// Writes DIR/table1.md, DIR/results.csv, DIR/report.json and DIR/report.html, each whole or not at all.
void write_report(const Store& store, const std::filesystem::path& dir);
void write_report(const Report& report, const std::filesystem::path& dir);

}  // namespace nibble::report
