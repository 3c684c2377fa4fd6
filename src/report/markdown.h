// table1.md: the whole report as Markdown.
#pragma once

#include <string>

#include "report/report.h"

namespace nibble::report {

// Head, Table 1, critical issues, scores by dataset, size and speed, fallbacks, how to reproduce.
std::string render_markdown(const Report& report);

}  // namespace nibble::report
