// The page's share of an analysis.
#pragma once

#include "report/analysis_view.h"

namespace nibble::report {

// Four digits are more than a chart shows, and keep the page small.
OrderedJson short_number(double value);

// {"missing"}, or what the heat map draws: names and numbers by column, "errors" by choice, "layers" by group
// size.
OrderedJson analysis_data(const StoredAnalysis& analysis);

}  // namespace nibble::report
