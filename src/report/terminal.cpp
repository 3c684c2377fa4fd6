#include "report/terminal.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/format.h"
#include "report/head.h"
#include "report/text_table.h"

namespace nibble::report {
namespace {

constexpr size_t kNarrowestTerminal = 80;

void append_wrapped(std::string& out, std::string_view text, size_t width, size_t indent = 0) {
  for (const std::string& line : wrap(one_line(text), width - indent))
    out += std::string(indent, ' ') + line + "\n";
}

TextTable table_1(const std::vector<Table1Row>& rows) {
  TextTable table;
  table.heads = {{"Model"},
                 {"Dataset"},
                 {"Baseline"},
                 {"Best quantized"},
                 {"Method"},
                 {"Difference"},
                 {"Memory", Align::kRight},
                 {"Size", Align::kRight}};
  std::string last_model;
  for (const Table1Row& row : rows) {
    const auto short_change = [](const std::optional<Change>& change) {
      return change ? change_text(change, "") : std::string("missing");
    };
    const bool compared = row.best && row.best_cell->to_baseline.comparable();
    table.rows.push_back({row.model == last_model ? "" : row.model, row.task,
                          score_text(row.baseline_cell, row.missing_baseline),
                          score_text(row.best_cell, row.missing_best), row.best ? row.best->label() : "–",
                          compared ? difference_text(row.best_cell->to_baseline) : "–",
                          short_change(row.memory), short_change(row.size)});
    last_model = row.model;
    std::string note = row.observation;
    if (compared && row.best_cell->to_baseline.verdict == Verdict::kNone) {
      note += fmt::format(" Could have shown {}.", detectable_text(row.best_cell->to_baseline));
    }
    if (!row.memory && row.best) note += fmt::format(" Memory missing ({}).", row.missing_memory);
    if (!row.size && row.best) note += fmt::format(" Size missing ({}).", row.missing_size);
    table.notes.push_back(std::move(note));
  }
  return table;
}

std::string head_line(const StudyView& study) {
  std::string line;
  for (const auto& [name, value] : head_of(study)) {
    if (!line.empty()) line += ", ";
    line += name == "version" ? value : fmt::format("{} {}", name, value);
  }
  return line + "; " + progress_of(study) + ".";
}

}  // namespace

std::string render_table1_terminal(const Report& report, size_t width) {
  width = std::max(width, kNarrowestTerminal);
  std::string out = "Table 1: baseline and best quantized\n";
  append_wrapped(out, head_line(report.study), width);
  append_wrapped(
      out,
      "Accuracies in %, [95 % interval]; perplexity differences as the ratio ×; memory and size against the "
      "baseline.",
      width);
  out += "\n" + to_terminal(table_1(report.table1), width) + "\n";
  const auto& issues = report.issues.issues;
  out += issues.empty() ? "Critical issues: none of the rules found anything.\n"
                        : fmt::format("Critical issues ({})\n", issues.size());
  for (const Issue& issue : issues) {
    append_wrapped(out, fmt::format("• {}: {}", issue.title, issue.where), width);
    append_wrapped(out, issue.finding + ".", width, 2);
    append_wrapped(out, fmt::format("Likely cause: {}.", issue.cause), width, 2);
  }
  return out;
}

}  // namespace nibble::report
