// What stands above every rendering: machine, version, what was measured.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/study_view.h"
#include "report/text_table.h"

namespace nibble::report {

// (name, value): version, machine, threads, instruction set, seed; "not stored" where the study kept nothing.
std::vector<std::pair<std::string, std::string>> head_of(const StudyView& study);

// "40 of 42 cells measured, 1 failed, 1 not run yet".
std::string progress_of(const StudyView& study);

// A row per dataset and setting: split, rows, shots, seed, metric. Several rows for one dataset mean that its
// cells were not measured alike.
TextTable tasks_table(const StudyView& study);

}  // namespace nibble::report
