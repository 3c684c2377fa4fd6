// Answers that quantization changed, with the texts that the rest of the report keeps as hashes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "report/study_view.h"
#include "study/store.h"

namespace nibble::report {

struct Answer {
  std::string prediction, output;  // output empty where it says the same as the prediction
  bool right = false;
};

struct ChangedRow {
  std::string key, gold, prompt;
  size_t prompt_left_out = 0;  // bytes that the page left out of the prompt's beginning
  Answer baseline;
  std::vector<std::pair<size_t, Answer>> changed;  // index in ModelView::variants → its answer
};

struct ChangedAnswers {
  std::string model, task;
  size_t rows = 0;                // compared
  size_t changed = 0;             // rows that some variant answers otherwise
  std::vector<ChangedRow> shown;  // those that fit; rows whose rightness changed come first
};

// Of every model and task of right and wrong answers whose baseline has rows; texts shortened and rows left
// out so that all of it takes at most about `budget` bytes.
std::vector<ChangedAnswers> changed_answers(const Store& store, const StudyView& study, size_t budget);

}  // namespace nibble::report
