// Table 1 and the critical issues for a terminal.
#pragma once

#include <string>

#include "report/report.h"

namespace nibble::report {

// No line is longer than `width` columns (at least 80); no escape sequences.
std::string render_table1_terminal(const Report& report, size_t width = 104);

}  // namespace nibble::report
