// MS MARCO (Bajaj et al. 2016) as a yes-or-no question on each passage.
#include <algorithm>
#include <cmath>

#include "eval/choice.h"
#include "eval/msmarco_data.h"
#include "eval/statistics.h"
#include "eval/task_parts.h"

namespace nibble {
namespace {

constexpr std::array<std::string_view, 2> kJudgements = {" No", " Yes"};
constexpr size_t kRankDepth = 10;

std::string prompt_of(const MarcoQuery& query, size_t passage) {
  return fmt::format("Passage: {}\nQuery: {}\nDoes the passage answer the query?\nAnswer:",
                     query.passages[passage], query.query);
}

// Examples from train queries, each on its selected or its unselected passage with equal chance.
std::vector<std::string> draw_prompts(const std::vector<MarcoQuery>& train, const MarcoQuery& query,
                                      int shots, Random& random) {
  const auto excluded = [&](size_t t) {
    const MarcoQuery& other = train[t];
    const bool has_pair = std::count(other.selected.begin(), other.selected.end(), true) > 0 &&
                          std::count(other.selected.begin(), other.selected.end(), false) > 0;
    return !has_pair || static_cast<int64_t>(t) == query.train_index || other.query == query.query;
  };
  std::vector<std::string> examples;
  for (const size_t t : draw_examples(train.size(), shots, random, excluded, query.where)) {
    const auto pair = train[t].draw_pair(random);
    const bool yes = random.below(2) == 1;
    examples.push_back(prompt_of(train[t], yes ? pair->first : pair->second) + std::string(kJudgements[yes]));
  }
  return examples;
}

// 1 / rank of the best selected passage by log p(Yes) − log p(No), 0 beyond rank 10 and without a
// finite score. A tie counts against the model, so that a constant score earns the last rank.
double reciprocal_rank(std::span<const ChoiceScore> scores, const std::vector<bool>& selected) {
  const auto score = [&](size_t i) {
    return scores[i].answer() < 0 ? -INFINITY : scores[i].loglik[1] - scores[i].loglik[0];
  };
  double best = -INFINITY;
  for (size_t i = 0; i < selected.size(); ++i) {
    if (selected[i]) best = std::max(best, score(i));
  }
  if (std::isinf(best)) return 0;
  size_t rank = 1;
  for (size_t i = 0; i < selected.size(); ++i) rank += !selected[i] && score(i) >= best;
  return rank <= kRankDepth ? 1.0 / static_cast<double>(rank) : 0.0;
}

Sample make_sample(size_t query, size_t passage, bool selected, const ChoiceScore& score,
                   const std::string& prompt, double rank) {
  const int answer = score.answer();
  Sample sample;
  sample.cluster = std::to_string(query);
  sample.key = fmt::format("{}/{}", query, passage);
  sample.score = answer == static_cast<int>(selected);
  sample.prediction = answer < 0 ? "" : kJudgements[static_cast<size_t>(answer)].substr(1);
  sample.gold = kJudgements[selected].substr(1);
  sample.prompt = prompt;
  sample.output = sample.prediction;
  sample.detail = {{"loglik_no", json_number(score.loglik[0])},
                   {"loglik_yes", json_number(score.loglik[1])},
                   {"gold_nll", json_number(-score.loglik[selected])},
                   {"gold_tokens", score.tokens[selected]},
                   {"reciprocal_rank", json_number(rank)}};
  return sample;
}

}  // namespace

void run_msmarco(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
                 TaskResult& result) {
  const TaskInfo& task = find_task("msmarco");
  result.shots = options.shots < 0 ? task.default_shots : options.shots;
  const TaskRows data = load_rows(task, options, result.shots, is_marco_qa_row);
  result.split = data.split;
  result.data_sha256 = data.sha256;
  std::vector<MarcoQuery> queries = parse_marco(data.rows);
  const std::vector<MarcoQuery> train = parse_marco(data.train);
  if (options.limit > 0 && static_cast<int64_t>(queries.size()) > options.limit) {
    queries.resize(static_cast<size_t>(options.limit));
  }

  std::vector<std::string> prompts;  // of all passages of all queries, in order
  std::vector<std::optional<std::pair<size_t, size_t>>> pairs;
  for (size_t q = 0; q < queries.size(); ++q) {
    Random random = row_random(options.seed, q);
    pairs.push_back(queries[q].draw_pair(random));
    Random shared = example_random(options, q);
    const std::vector<std::string> examples =
        draw_prompts(train, queries[q], result.shots, options.same_examples ? shared : random);
    for (size_t p = 0; p < queries[q].passages.size(); ++p) {
      prompts.push_back(join_shots(examples, prompt_of(queries[q], p)));
    }
  }
  const auto n_pairs =
      std::count_if(pairs.begin(), pairs.end(), [](const auto& pair) { return pair.has_value(); });
  if (n_pairs == 0) {
    fail("{}: none of {} queries has both a selected and an unselected passage", data.rows.front().where,
         queries.size());
  }

  const ChoiceScores scores = score_choices(model, prompts, kJudgements, progress);
  std::vector<double> ranks, correct;
  std::vector<std::string> correct_clusters;
  double selected_all = 0, no_all = 0;
  size_t first = 0;
  for (size_t q = 0; q < queries.size(); ++q) {
    const std::vector<bool>& selected = queries[q].selected;
    const auto of_query = std::span(scores.rows).subspan(first, selected.size());
    double rank = kUnknown;  // of a query that has an answer
    if (std::find(selected.begin(), selected.end(), true) != selected.end()) {
      ranks.push_back(rank = reciprocal_rank(of_query, selected));
    }
    for (size_t p = 0; p < selected.size(); ++p) {
      correct.push_back(of_query[p].answer() == static_cast<int>(selected[p]));
      correct_clusters.push_back(std::to_string(q));
      selected_all += selected[p];
      no_all += of_query[p].answer() == 0;
    }
    if (pairs[q]) {
      for (const size_t p : {pairs[q]->first, pairs[q]->second}) {
        result.samples.push_back(make_sample(q, p, selected[p], of_query[p], prompts[first + p], rank));
      }
    }
    first += selected.size();
  }

  const double n = static_cast<double>(result.samples.size()), n_all = static_cast<double>(correct.size());
  double answer_yes = 0;
  for (const Sample& sample : result.samples) answer_yes += sample.prediction == "Yes";
  result.metrics["accuracy"] = proportion_metric(scores_of(result.samples), clusters_of(result.samples));
  result.metrics["all_passages_accuracy"] = proportion_metric(correct, correct_clusters);
  result.metrics["mrr_at_10"] = mean_metric(ranks, {});
  add_gold_ppl(result);
  add_choice_costs(scores, result);
  result.checks["label_share_yes"] = 0.5;
  result.checks["answer_share_yes"] = answer_yes / n;
  result.checks["top_answer_share"] = top_answer_share(result.samples);
  result.checks["always_no_accuracy"] = 1 - selected_all / n_all;
  result.checks["answer_share_no_all"] = no_all / n_all;
  result.checks["queries"] = static_cast<double>(queries.size());
  result.checks["queries_without_pair"] = static_cast<double>(queries.size()) - static_cast<double>(n_pairs);
}

}  // namespace nibble
