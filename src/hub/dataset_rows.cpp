// What the data sets' rows look like, and what becomes of them.
#include <array>

#include "base/error.h"
#include "hub/dataset.h"

namespace nibble {
namespace {

constexpr uint64_t kMostRows = 100'000'000;  // a split that says it has more is not believed

std::string line(const OrderedJson& json) { return json.dump() + "\n"; }

std::string boolq_row(const Json& row, std::string_view where) {
  return line({{"question", json_get<std::string>(row, "question", where)},
               {"passage", json_get<std::string>(row, "passage", where)},
               {"answer", json_get<bool>(row, "answer", where)}});
}

std::string gsm8k_row(const Json& row, std::string_view where) {
  return line({{"question", json_get<std::string>(row, "question", where)},
               {"answer", json_get<std::string>(row, "answer", where)}});
}

// `passages` comes as an object of arrays, or as an array of objects.
std::string msmarco_row(const Json& row, std::string_view where) {
  const Json passages = json_get<Json>(row, "passages", where);
  std::vector<std::string> texts;
  std::vector<int> selected;
  if (passages.is_array()) {
    for (const Json& passage : passages) {
      texts.push_back(json_get<std::string>(passage, "passage_text", where));
      selected.push_back(json_get<int>(passage, "is_selected", where));
    }
  } else {
    texts = json_get<std::vector<std::string>>(passages, "passage_text", where);
    selected = json_get<std::vector<int>>(passages, "is_selected", where);
  }
  if (texts.size() != selected.size())
    fail("{}: {} passages but {} of is_selected", where, texts.size(), selected.size());
  return line({{"query", json_get<std::string>(row, "query", where)},
               {"query_id", json_get<int64_t>(row, "query_id", where)},
               {"passages", {{"is_selected", selected}, {"passage_text", texts}}},
               {"answers", json_get<std::vector<std::string>>(row, "answers", where)}});
}

// A row is a line of the published file, with its end; of blank lines the data set keeps nothing.
std::string wikitext_row(const Json& row, std::string_view where) {
  std::string text = json_get<std::string>(row, "text", where);
  if (text.empty()) return " \n";
  if (text.find('\n') != text.size() - 1) fail("{}: not one line of text", where);
  return text;
}

constexpr std::array<std::string_view, 2> kTrainValidation = {"train", "validation"};
constexpr std::array<std::string_view, 2> kTrainTest = {"train", "test"};
constexpr std::array<std::string_view, 3> kThree = {"train", "validation", "test"};
constexpr std::array<DatasetSource, 4> kSources = {{
    {"boolq", "google/boolq", "default", kTrainValidation, boolq_row},
    {"gsm8k", "openai/gsm8k", "main", kTrainTest, gsm8k_row},
    {"msmarco", "microsoft/ms_marco", "v1.1", kThree, msmarco_row},
    {"wikitext", "Salesforce/wikitext", "wikitext-2-raw-v1", kThree, wikitext_row},
}};

}  // namespace

const DatasetSource& find_dataset(std::string_view name) {
  std::string known;
  for (const DatasetSource& source : kSources) {
    if (source.name == name) return source;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", source.name);
  }
  throw UsageError(fmt::format("no data set '{}'; there are {}", name, known));
}

DatasetPage read_page(std::string_view text, const DatasetSource& source, uint64_t offset, uint64_t most,
                      const std::string& where) {
  const Json json = parse_json(text, where);
  DatasetPage page;
  const auto total = json_get<int64_t>(json, "num_rows_total", where);
  if (total < 0 || static_cast<uint64_t>(total) > kMostRows)
    fail("{}: {} rows is no size of a split", where, total);
  page.rows_in_split = static_cast<uint64_t>(total);
  page.partial = json_get_or<bool>(json, "partial", false, where);
  if (!json.contains("rows")) fail("{}: 'rows' is missing", where);
  const Json& rows = json.at("rows");
  if (!rows.is_array()) fail("{}: 'rows' is a JSON {}, expected an array", where, rows.type_name());
  if (rows.size() > most || (!rows.empty() && offset + rows.size() > page.rows_in_split))
    fail("{}: {} rows from {}, of which there are {}", where, rows.size(), offset, page.rows_in_split);
  if (rows.empty() && offset < page.rows_in_split)
    fail("{}: no rows from {}, of {}", where, offset, page.rows_in_split);
  for (const Json& entry : rows) {
    const std::string row = fmt::format("{}: row {}", where, offset + page.rows);
    if (json_get<int64_t>(entry, "row_idx", row) != static_cast<int64_t>(offset + page.rows))
      fail("{}: the server sent row {} in its place", row, json_get<int64_t>(entry, "row_idx", row));
    if (!json_get_or<Json>(entry, "truncated_cells", Json::array(), row).empty())
      fail("{}: the server cut it short", row);
    page.text += source.text(json_get<Json>(entry, "row", row), row);
    ++page.rows;
  }
  return page;
}

}  // namespace nibble
