#include "report/report.h"

#include "base/error.h"
#include "base/file.h"
#include "report/csv.h"
#include "report/json.h"
#include "report/markdown.h"
#include "report/page.h"

namespace nibble::report {
namespace {

constexpr size_t kAnswerBudget = 700000;  // bytes of the page

}  // namespace

Report make_report(const Store& store) {
  Report report;
  report.study = load_study(store);
  report.table1 = table1(report.study);
  report.issues = find_critical_issues(report.study);
  if (!report.study.tasks.empty()) {
    for (const ModelView& model : report.study.models) {
      Specification spec;
      spec.models = {model.name};
      report.choices.push_back(recommend(report.study, report.issues, spec));
    }
  }
  report.finetuned = fine_tuned_pairs(report.study);
  report.answers = changed_answers(store, report.study, kAnswerBudget);
  return report;
}

void write_report(const Store& store, const std::filesystem::path& dir) {
  write_report(make_report(store), dir);
}

void write_report(const Report& report, const std::filesystem::path& dir) {
  if (!std::filesystem::is_directory(dir))
    fail("{}: not a directory, so the report has no place", dir.string());
  write_file_atomically(dir / "table1.md", render_markdown(report));
  write_file_atomically(dir / "results.csv", render_csv(report));
  write_file_atomically(dir / "report.json", render_json(report));
  write_file_atomically(dir / "report.html", render_page(report));
}

}  // namespace nibble::report
