// The columns of the report's tables: one registry entry each, used by Markdown, CSV and JSON alike.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "report/study_view.h"
#include "report/text_table.h"

namespace nibble::report {

// What a column shows for a row. Exactly one of `text` and `missing` is not empty.
struct Value {
  std::string text;                       // as printed
  std::optional<double> number;           // as in CSV and JSON, in the unit that the column's key names
  std::string missing;                    // why there is no value
  std::optional<double> sd;               // over repetitions, same unit
  std::optional<double> ci_low, ci_high;  // 95 %, same unit
};

struct ColumnRow {
  const ModelView& model;
  const VariantView& variant;
  const TaskView* task;  // null in tables with a row per variant
};

struct Column {
  const char* key;    // of CSV and JSON, unit included: "file_bytes"
  const char* title;  // of the table
  Align align;
  bool is_number;  // stands in CSV; the rest only says the same in words
  Value (*value)(const ColumnRow&);
};

std::span<const Column> score_columns();  // a row per variant and task: quality against the baseline
std::span<const Column> speed_columns();  // a row per variant and task: latency, throughput, memory
std::span<const Column>
efficiency_columns();  // a row per variant: file, bench, memory by part, time to quantize

// "–" for a value that does not apply here, "missing (reason)" for one that was not measured.
std::string shown(const Value& value);

// A row per row, a column per column, less those that apply to no row and those in `without` (keys). A row
// gives each reason once: further cells that miss for the same one say "missing".
TextTable to_table(std::span<const Column> columns, const std::vector<ColumnRow>& rows,
                   std::initializer_list<std::string_view> without = {});

// A baseline's difference to itself and the like: printed as "–".
Value not_applicable();

}  // namespace nibble::report
