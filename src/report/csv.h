// results.csv: tidy, one measurement a row.
#pragma once

#include <string>

#include "report/report.h"

namespace nibble::report {

// Columns:
// model,method,bits,group_size,task,split,shots,seed,rows,measure,value,sd,ci_low,ci_high,status,reason,source.
// A measure is a column of report/columns.cpp (its key names the unit), "metric.NAME", "check.NAME" or
// "bench.TEST.bBATCH.tokens_per_s" and more (docs/results.md); task is empty where it concerns the whole
// variant. Shares are not per cent. A value that was not measured has status "missing" and a reason. RFC 4180
// quoting, LF line ends.
std::string render_csv(const Report& report);

}  // namespace nibble::report
