// GSM8K (Cobbe et al. 2021), lm-evaluation-harness gsm8k 3.0.
#include <algorithm>
#include <cmath>

#include "base/stopwatch.h"
#include "eval/encoding.h"
#include "eval/exact_match.h"
#include "eval/gsm8k_answer.h"
#include "eval/statistics.h"
#include "eval/task_parts.h"
#include "text/prompt_forms.h"

namespace nibble {
namespace {

struct Problem {
  std::string question, answer;  // the answer with its reasoning, "… #### 42"
  std::string number;            // normalized

  std::string prompt() const { return gsm8k_prompt(question); }
};

Problem parse_problem(const DataRow& row) {
  Problem problem;
  problem.question = json_get<std::string>(row.json, "question", row.where);
  problem.answer = json_get<std::string>(row.json, "answer", row.where);
  problem.answer.erase(problem.answer.find_last_not_of(" \t\r\n") + 1);
  if (!extract_strict(problem.answer)) fail("{}: 'answer' does not end in '#### NUMBER'", row.where);
  problem.number = normalize_answer(problem.answer);
  return problem;
}

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
      return "end_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
  }
  return "unknown";
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

std::vector<std::string> build_prompts(const TaskRows& data, const std::vector<Problem>& problems,
                                       const std::vector<Problem>& train, const TaskOptions& options,
                                       int shots) {
  std::vector<std::string> prompts;
  for (size_t i = 0; i < problems.size(); ++i) {
    Random random = example_random(options, i);
    const auto is_row_itself = [&](size_t t) {
      return static_cast<int64_t>(t) == data.rows[i].train_index || train[t].question == problems[i].question;
    };
    std::vector<std::string> examples;
    for (const size_t t : draw_examples(train.size(), shots, random, is_row_itself, data.rows[i].where)) {
      examples.push_back(train[t].prompt() + " " + train[t].answer);
    }
    prompts.push_back(join_shots(examples, problems[i].prompt()));
  }
  return prompts;
}

void add_generation_costs(std::span<const GenerateResult> answers, TaskResult& result) {
  std::vector<double> latency, first, per_token;
  for (const GenerateResult& answer : answers) {
    latency.push_back(answer.total_ms);
    if (answer.tokens.empty()) continue;
    first.push_back(answer.first_token_ms);
    if (answer.tokens.size() < 2) continue;
    per_token.push_back((answer.total_ms - answer.first_token_ms) /
                        static_cast<double>(answer.tokens.size() - 1));
  }
  result.latency_ms = percentile_summary(latency);
  result.first_token_ms = percentile_summary(first);
  result.per_token_ms = percentile_summary(per_token);
}

Sample make_sample(size_t row, const Problem& problem, const std::string& prompt,
                   const GenerateResult& answer) {
  const auto strict = extract_strict(answer.text), number = generated_number(answer.text);
  Sample sample;
  sample.key = sample.cluster = std::to_string(row);
  sample.prediction = number.value_or("");
  sample.score = number == problem.number;
  sample.tokens = static_cast<double>(answer.tokens.size());
  sample.gold = problem.number;
  sample.prompt = prompt;
  sample.output = to_valid_utf8(answer.text);
  sample.detail = {{"strict", strict && normalize_answer(*strict) == problem.number},
                   {"strict_match", strict.has_value()},
                   {"flexible_match", number.has_value()},
                   {"finish", finish_name(answer.finish)},
                   {"empty", is_blank(answer.text)}};
  return sample;
}

// Counts that set format apart from arithmetic.
void add_answer_checks(TaskResult& result) {
  double strict_none = 0, flexible_none = 0, truncated = 0, empty = 0, wrong_but_complete = 0;
  for (const Sample& sample : result.samples) {
    const bool strict = sample.detail["strict_match"], cut = sample.detail["finish"] == "length";
    strict_none += !strict;
    flexible_none += !sample.detail["flexible_match"].get<bool>();
    truncated += cut;
    empty += sample.detail["empty"].get<bool>();
    wrong_but_complete += strict && !cut && sample.score == 0;
  }
  result.checks["strict_no_match"] = strict_none;
  result.checks["flexible_no_match"] = flexible_none;
  result.checks["truncated_answers"] = truncated;
  result.checks["empty_answers"] = empty;
  result.checks["wrong_but_complete"] = wrong_but_complete;
  result.checks["top_answer_share"] = top_answer_share(result.samples);
}

}  // namespace

void run_gsm8k(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
               TaskResult& result) {
  const TaskInfo& task = find_task("gsm8k");
  result.shots = options.shots < 0 ? task.default_shots : options.shots;
  const TaskRows data = load_rows(task, options, result.shots);
  result.split = data.split;
  result.data_sha256 = data.sha256;
  std::vector<Problem> problems, train;
  for (const DataRow& row : data.rows) problems.push_back(parse_problem(row));
  for (const DataRow& row : data.train) train.push_back(parse_problem(row));
  const std::vector<std::string> prompts = build_prompts(data, problems, train, options, result.shots);

  // A short context keeps at least half for the prompt.
  const int max_new = std::min(kGsm8kMaxNewTokens, model.max_context() / 2);
  std::vector<GenerateRequest> requests;
  std::vector<LoglikRequest> apart;  // gold answers whose prompt had to be cut at another place
  std::vector<double> gold_tokens;
  double prompt_tokens = 0, output_tokens = 0, truncated = 0, reused = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    EncodedPrompt prompt = encode_prompt(model.tokenizer(), prompts[i], model.max_context() - max_new);
    EncodedPair pair =
        encode_pair(model.tokenizer(), prompts[i], " " + problems[i].answer, model.max_context());
    prompt_tokens += static_cast<double>(prompt.tokens.size());
    truncated += prompt.truncated || pair.truncated;
    const bool together = pair.request.context == prompt.tokens;
    requests.push_back({std::move(prompt.tokens), max_new, gsm8k_stop_strings()});
    gold_tokens.push_back(static_cast<double>(pair.request.continuation.size()));
    if (together) {
      requests.back().gold = std::move(pair.request.continuation);
    } else {
      apart.push_back(std::move(pair.request));
    }
  }
  GenerateRequest warm_up = requests.front();
  warm_up.max_new_tokens = 1;
  warm_up.gold.clear();
  model.generate(std::span(&warm_up, 1), {});

  const size_t total = requests.size() + apart.size();
  const auto report = [&](size_t before) {
    return [&, before](size_t done, size_t) {
      if (progress) progress(before + done, total);
    };
  };
  const Stopwatch watch;
  const std::vector<GenerateResult> answers = model.generate(requests, report(0));
  double seconds = watch.seconds();
  for (const GenerateResult& answer : answers) seconds -= answer.gold_ms / 1000;
  const std::vector<LoglikResult> apart_logliks = model.loglik(apart, report(requests.size()));
  NIBBLE_CHECK(answers.size() == problems.size() && apart_logliks.size() == apart.size());

  std::vector<double> strict;
  size_t next_apart = 0;
  for (size_t i = 0; i < problems.size(); ++i) {
    Sample sample = make_sample(i, problems[i], prompts[i], answers[i]);
    const double loglik =
        requests[i].gold.empty() ? apart_logliks[next_apart++].loglik : answers[i].gold_loglik;
    sample.detail["gold_nll"] = json_number(-loglik);
    sample.detail["gold_tokens"] = gold_tokens[i];
    strict.push_back(sample.detail["strict"].get<bool>());
    output_tokens += sample.tokens;
    reused += answers[i].reused_tokens;
    result.samples.push_back(std::move(sample));
  }
  result.metrics["exact_match_flexible"] = proportion_metric(scores_of(result.samples), {});
  result.metrics["exact_match_strict"] = proportion_metric(strict, {});
  add_gold_ppl(result);
  add_generation_costs(answers, result);
  if (seconds > 0) {
    result.prompt_tokens_per_s = (prompt_tokens - reused) / seconds;
    result.output_tokens_per_s = output_tokens / seconds;
  }
  result.checks["truncated_prompts"] = truncated;
  result.checks["reused_prompt_tokens"] = reused;
  add_answer_checks(result);
}

}  // namespace nibble
