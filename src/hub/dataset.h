// Splits of public data sets through the rows interface of Hugging Face's datasets server
// (GET rows?dataset=&config=&split=&offset=&length=, at most 100 rows an answer), as the files that the tasks
// read (eval/task_data.h): JSON lines, and for wikitext the text as it was published.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "hub/download.h"

namespace nibble {

struct DatasetSource {
  std::string_view name;        // of the task that reads it: "boolq"
  std::string_view id, config;  // as the server names them
  std::span<const std::string_view> splits;
  std::string (*text)(const Json& row, std::string_view where);  // a row's part of the file; throws Error
};

// Throws UsageError that lists the names.
const DatasetSource& find_dataset(std::string_view name);

struct DatasetPullOptions {
  std::string dataset, split;  // "boolq", "validation"
  std::string endpoint = "https://datasets-server.huggingface.co";
  std::filesystem::path file;  // what is made; FILE.source.json beside it says what it is
  uint64_t limit = 0;          // the first rows alone; 0: all
  bool offline = false;        // only what is there
  DownloadOptions download;
};

struct PulledDataset {
  std::filesystem::path file;
  std::string revision;  // of the data set; empty where the server did not say
  std::string sha256;    // of the file
  uint64_t rows = 0, rows_in_split = 0;
  uint64_t fetched = 0;  // rows that this call brought
  bool partial = false;  // the server holds a part of the split only
};

using RowProgress = std::function<void(uint64_t done, uint64_t total)>;  // rows; may throw to stop

// FILE.incomplete grows page by page, with FILE.incomplete.json to say how far it is whole; a stopped or
// killed pull goes on from there unless the data set's revision or size changed meanwhile: then it starts
// again. A file that is there, whole and of the present revision is left alone; one that no pull brought, or
// that was changed since, is refused. Throws Error in one line, UsageError for a split that there is not.
PulledDataset pull_dataset(const DatasetPullOptions& options, const RowProgress& progress);

// An answer of the rows interface, checked: rows `offset` … of at most `most`, none of them cut. It has no
// rows only where the split ends before `offset`.
struct DatasetPage {
  std::string text;  // what the file gets
  uint64_t rows = 0, rows_in_split = 0;
  bool partial = false;
};
DatasetPage read_page(std::string_view json, const DatasetSource& source, uint64_t offset, uint64_t most,
                      const std::string& where);

}  // namespace nibble
