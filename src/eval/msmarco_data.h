// Queries of MS MARCO in both forms that they come in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eval/task_data.h"

namespace nibble {

struct MarcoQuery {
  std::string query;
  std::vector<std::string> passages;
  std::vector<bool> selected;  // the passage answers the query
  std::string where;           // file and line, for errors
  int64_t train_index = -1;    // its place among the train file's queries

  // A selected and an unselected passage, each drawn among its kind; none when a kind is missing.
  std::optional<std::pair<size_t, size_t>> draw_pair(Random& random) const;
};

// True for the QA form (v1.1, v2.1): `query`, `passages: {is_selected[], passage_text[]}`.
bool is_marco_qa_row(const Json& json);

// QA form: a query a line. Passage form: `qid, query, passage, rel` (and `docid`) a line, lines of
// one qid gathered in order of first appearance; a passage counts as selected from rel = 2 up, as
// TREC 2019 counts binary relevance (1 is "related": on topic, but not an answer). Throws Error
// naming the line when a field is missing or the arrays differ in length.
std::vector<MarcoQuery> parse_marco(const std::vector<DataRow>& rows);

}  // namespace nibble
