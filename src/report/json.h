// report.json: every number that a person sees in the report.
#pragma once

#include <string>

#include "report/report.h"

namespace nibble::report {

// {"meta", "tasks", "table1", "critical_issues", "rules", "variants", …}; docs/results.md lists the keys.
// Numbers are raw: shares, bytes, ms. NaN is null, infinity "inf"; a value not measured is {"missing":
// reason}.
std::string render_json(const Report& report);

}  // namespace nibble::report
