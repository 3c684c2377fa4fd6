#include "eval/msmarco_data.h"

#include <unordered_map>

namespace nibble {
namespace {

constexpr int kRelevant = 2;

MarcoQuery parse_qa(const DataRow& row) {
  MarcoQuery query;
  query.query = json_get<std::string>(row.json, "query", row.where);
  query.where = row.where;
  query.train_index = row.train_index;
  const Json& passages = row.json.at("passages");
  query.passages = json_get<std::vector<std::string>>(passages, "passage_text", row.where);
  for (const int selected : json_get<std::vector<int>>(passages, "is_selected", row.where)) {
    query.selected.push_back(selected != 0);
  }
  if (query.passages.size() != query.selected.size()) {
    fail("{}: {} passages but {} of is_selected", row.where, query.passages.size(), query.selected.size());
  }
  return query;
}

// `qid` as text: some files hold numbers, some strings.
std::string query_id(const DataRow& row) {
  if (row.json.contains("qid") && row.json.at("qid").is_number_integer()) {
    return std::to_string(json_get<int64_t>(row.json, "qid", row.where));
  }
  return json_get<std::string>(row.json, "qid", row.where);
}

}  // namespace

bool is_marco_qa_row(const Json& json) { return json.contains("passages"); }

std::optional<std::pair<size_t, size_t>> MarcoQuery::draw_pair(Random& random) const {
  std::vector<size_t> yes, no;
  for (size_t i = 0; i < selected.size(); ++i) (selected[i] ? yes : no).push_back(i);
  if (yes.empty() || no.empty()) return std::nullopt;
  const size_t a = yes[random.below(yes.size())];
  return std::pair{a, no[random.below(no.size())]};
}

std::vector<MarcoQuery> parse_marco(const std::vector<DataRow>& rows) {
  std::vector<MarcoQuery> queries;
  std::unordered_map<std::string, size_t> by_id;
  int64_t train_queries = 0;
  for (const DataRow& row : rows) {
    if (is_marco_qa_row(row.json)) {
      queries.push_back(parse_qa(row));
      continue;
    }
    if (!row.json.contains("passage")) fail("{}: neither 'passages' nor 'passage'", row.where);
    // The same query may stand in the scored file and in train: their passages stay apart.
    const std::string id = query_id(row) + (row.train_index >= 0 ? " train" : "");
    const auto [found, is_new] = by_id.emplace(id, queries.size());
    if (is_new) {
      MarcoQuery query;
      query.query = json_get<std::string>(row.json, "query", row.where);
      query.where = row.where;
      if (row.train_index >= 0) query.train_index = train_queries++;
      queries.push_back(std::move(query));
    }
    MarcoQuery& query = queries[found->second];
    query.passages.push_back(json_get<std::string>(row.json, "passage", row.where));
    query.selected.push_back(json_get<int>(row.json, "rel", row.where) >= kRelevant);
  }
  return queries;
}

}  // namespace nibble
