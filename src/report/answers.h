// What the stored answers of a cell say apart from their score.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/study_view.h"

namespace nibble::report {

// The answer that at least `threshold` of the rows got.
struct ConstantAnswer {
  std::string answer;
  double share = 0;        // of the rows with this answer
  double right_share = 0;  // of the rows with this answer and right: what a constant earns here
  std::string quoted() const;
};
constexpr double kConstantShare = 0.98;
constexpr size_t kFewestRowsForConstant = 10;  // fewer say nothing about constancy

// None for perplexities and for cells with fewer rows than above.
std::optional<ConstantAnswer> constant_answer(const TaskView& cell, double threshold = kConstantShare);

// How a GSM8K answer ended; only a whole one can be wrong about arithmetic. Cut at the token limit ("finish"
// is "length"), blank, without a number in the asked form (#### N; "strict_match" is false): in this order.
enum class AnswerState { kWhole, kTruncated, kEmpty, kBroken };
AnswerState answer_state(const Row& row);

struct AnswerCounts {
  size_t truncated = 0, empty = 0, broken = 0;
  size_t not_whole() const { return truncated + empty + broken; }
};
AnswerCounts count_answers(const std::vector<Row>& rows);

}  // namespace nibble::report
