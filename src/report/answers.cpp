#include "report/answers.h"

#include <map>

namespace nibble::report {

std::string ConstantAnswer::quoted() const { return answer.empty() ? "nothing" : "'" + answer + "'"; }

std::optional<ConstantAnswer> constant_answer(const TaskView& cell, double threshold) {
  if (!cell.result || is_perplexity(*cell.result) || cell.rows.size() < kFewestRowsForConstant)
    return std::nullopt;
  std::map<std::string, std::pair<size_t, size_t>> answers;  // answer → rows, right rows
  for (const Row& row : cell.rows) {
    auto& [rows, right] = answers[row.prediction];
    ++rows;
    if (row.score >= 0.5) ++right;
  }
  const auto n = static_cast<double>(cell.rows.size());
  for (const auto& [answer, counts] : answers) {
    const double share = static_cast<double>(counts.first) / n;
    if (share >= threshold) return ConstantAnswer{answer, share, static_cast<double>(counts.second) / n};
  }
  return std::nullopt;
}

AnswerState answer_state(const Row& row) {
  if (json_get_or<std::string>(row.detail, "finish", "", row.key) == "length") return AnswerState::kTruncated;
  if (json_get_or<bool>(row.detail, "empty", row.is_empty, row.key)) return AnswerState::kEmpty;
  const bool in_form = json_get_or<bool>(row.detail, "strict_match", !row.prediction.empty(), row.key);
  return in_form ? AnswerState::kWhole : AnswerState::kBroken;
}

AnswerCounts count_answers(const std::vector<Row>& rows) {
  AnswerCounts counts;
  for (const Row& row : rows) {
    const AnswerState state = answer_state(row);
    counts.truncated += state == AnswerState::kTruncated;
    counts.empty += state == AnswerState::kEmpty;
    counts.broken += state == AnswerState::kBroken;
  }
  return counts;
}

}  // namespace nibble::report
