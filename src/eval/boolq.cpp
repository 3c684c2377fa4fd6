// BoolQ (Clark et al. 2019), lm-evaluation-harness super_glue/boolq 2.0.
#include "eval/choice.h"
#include "eval/statistics.h"
#include "eval/task_parts.h"
#include "text/prompt_forms.h"

namespace nibble {
namespace {

constexpr std::array<std::string_view, 2> kChoices = {" no", " yes"};

struct Question {
  std::string passage, question;
  int answer = 0;  // 1: yes

  std::string prompt() const { return boolq_prompt(passage, question); }
  bool operator==(const Question&) const = default;
};

Question parse_question(const DataRow& row) {
  Question q;
  q.passage = json_get<std::string>(row.json, "passage", row.where);
  q.question = json_get<std::string>(row.json, "question", row.where);
  // super_glue calls the answer `label` and writes 0 or 1.
  const char* key = row.json.contains("answer") || !row.json.contains("label") ? "answer" : "label";
  if (row.json.contains(key) && row.json.at(key).is_number_integer()) {
    q.answer = json_get<int>(row.json, key, row.where);
    if (q.answer != 0 && q.answer != 1) fail("{}: '{}' is {}, not 0 or 1", row.where, key, q.answer);
  } else {
    q.answer = json_get<bool>(row.json, key, row.where);
  }
  return q;
}

}  // namespace

void run_boolq(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
               TaskResult& result) {
  const TaskInfo& task = find_task("boolq");
  result.shots = options.shots < 0 ? task.default_shots : options.shots;
  const TaskRows data = load_rows(task, options, result.shots);
  result.split = data.split;
  result.data_sha256 = data.sha256;

  std::vector<Question> questions, train;
  for (const DataRow& row : data.rows) questions.push_back(parse_question(row));
  for (const DataRow& row : data.train) train.push_back(parse_question(row));
  std::vector<std::string> prompts;
  for (size_t i = 0; i < questions.size(); ++i) {
    Random random = example_random(options, i);
    const auto is_row_itself = [&](size_t t) {
      return static_cast<int64_t>(t) == data.rows[i].train_index ||
             (train[t].question == questions[i].question && train[t].passage == questions[i].passage);
    };
    std::vector<std::string> examples;
    for (const size_t t :
         draw_examples(train.size(), result.shots, random, is_row_itself, data.rows[i].where)) {
      examples.push_back(train[t].prompt() + std::string(kChoices[static_cast<size_t>(train[t].answer)]));
    }
    prompts.push_back(join_shots(examples, questions[i].prompt()));
  }

  const ChoiceScores scores = score_choices(model, prompts, kChoices, progress);
  double label_yes = 0, answer_yes = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    const ChoiceScore& score = scores.rows[i];
    const size_t gold = static_cast<size_t>(questions[i].answer);
    const int answer = score.answer();
    Sample sample;
    sample.key = sample.cluster = std::to_string(i);
    sample.score = answer == questions[i].answer;
    sample.prediction = answer < 0 ? "" : kChoices[static_cast<size_t>(answer)].substr(1);
    sample.gold = kChoices[gold].substr(1);
    sample.prompt = prompts[i];
    sample.output = sample.prediction;
    sample.detail = {{"loglik_no", json_number(score.loglik[0])},
                     {"loglik_yes", json_number(score.loglik[1])},
                     {"gold_nll", json_number(-score.loglik[gold])},
                     {"gold_tokens", score.tokens[gold]}};
    result.samples.push_back(std::move(sample));
    label_yes += questions[i].answer;
    answer_yes += answer == 1;
  }
  const double n = static_cast<double>(questions.size());
  result.metrics["accuracy"] = proportion_metric(scores_of(result.samples), {});
  add_gold_ppl(result);
  add_choice_costs(scores, result);
  result.checks["label_share_yes"] = label_yes / n;
  result.checks["answer_share_yes"] = answer_yes / n;
  result.checks["majority_accuracy"] = std::max(label_yes, n - label_yes) / n;
  result.checks["top_answer_share"] = top_answer_share(result.samples);
}

}  // namespace nibble
