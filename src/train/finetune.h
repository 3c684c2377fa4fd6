// Fine-tuning on questions with answers: the loss counts the answers alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "train/parameters.h"
#include "train/unfinished_training.h"

namespace nibble {

// A prompt and what should come after it, as tokens.
struct TrainingRow {
  std::vector<int32_t> tokens;
  int prompt = 0;  // of them; the rest is the answer, with an end token where the model has one
};

struct TrainingText {
  std::vector<TrainingRow> rows;
  int too_long = 0;  // rows left out since they do not fit the context
};

struct FineTuneOptions {
  bool full = false;  // every weight; otherwise adapters beside the blocks' linears (LoRA)
  int rank = 16;      // of an adapter
  double alpha = 32;  // an adapter counts alpha / rank times
  double rate = 0;    // highest learning rate; 0: 5e-4 for adapters, 2e-5 for all weights
  double epochs = 1;  // times that every row is seen
  int max_steps = 0;  // fewer steps than the epochs ask for; 0: no such limit
  int batch = 8;      // rows a step
  int context = 512;  // most tokens of a row
  double warmup =
      0.05;          // share of the steps in which the rate rises to its highest; a cosine falls to 0 after
  double clip = 1;   // most that a step's gradient may be long; 0: as long as it is
  double decay = 0;  // of weights (AdamW)
  bool strip_marks = false;  // leaves GSM8K's calculator marks <<…>> out of the answers
  int held_out = 64;         // rows, at most a tenth, that are only looked at
  int score_rows = 32;       // of them, at most, that the model answers at every check
  uint64_t seed = 0;         // draws the order of the rows, and the adapters' first values
  // Beside adapters: the frozen weights are multiplied in bf16 where the processor has the instruction and
  // memory for it; otherwise in float32.
  bool bf16 = true;
  double learning_rate() const { return rate > 0 ? rate : full ? 2e-5 : 5e-4; }
  void validate() const;  // throws UsageError
};

// JSONL rows of "question" and "answer" in the form of GSM8K's prompt (docs/tasks.md), or of "prompt" and
// "completion" as they stand. Throws Error for other rows or where none is left; UsageError for a test split.
TrainingText load_training_text(const std::filesystem::path& file, const Model& model,
                                const Tokenizer& tokenizer, const FineTuneOptions& options);

struct FineTuneReport {
  struct Check {
    int step;
    double loss;                        // mean −ln p of an answer's token, held-out rows
    std::optional<double> exact_match;  // share of them answered right, where that was asked for
  };
  std::vector<Check> checks;  // before the first step, on the way, after the last
  int steps = 0;
  int64_t tokens = 0, answer_tokens = 0;  // trained on, prompts included and not
  int rows = 0, held_out = 0, too_long = 0;
  bool bf16 = false;                         // what the frozen weights were multiplied in
  double seconds = 0, training_seconds = 0;  // of all, of all but the checks and what was kept
  uint64_t peak_rss = 0;
};
OrderedJson to_json(const std::vector<FineTuneReport::Check>& checks);
OrderedJson to_json(const FineTuneReport& report, const FineTuneOptions& options);

struct FineTuneCalls {
  // After each step; loss: of the steps so far, smoothed. May throw to cancel.
  std::function<void(int step, int total, double loss)> progress;
  // After each look at the held-out rows.
  std::function<void(const FineTuneReport::Check&)> checked;
  // Share of the rows that the model as it is now answers right; none where they have no right answer. May
  // throw to cancel.
  std::function<std::optional<double>(std::span<const TrainingRow* const> rows)> score;
  // What is kept there is gone on from: the weights at the end are those of a fine-tuning that was not
  // stopped.
  KeepOptions keep;
};

// Makes the parts of `trained` that options ask for better at `text`. What lies in calls.keep.folder stays
// there: whoever has written the result removes it.
TrainedParts trained_parts(const FineTuneOptions& options);
FineTuneReport fine_tune(TrainedModel& trained, const TrainingText& text, const FineTuneOptions& options,
                         ThreadPool& pool, const FineTuneCalls& calls);

// A Hugging Face directory with the trained weights (adapters merged) in the types of the original's. Throws
// Error for a quantized model.
void write_fine_tuned(TrainedModel& trained, const std::filesystem::path& out, ThreadPool& pool);
// The adapters alone, in the format of Hugging Face's peft.
void write_adapter(TrainedModel& trained, const FineTuneOptions& options, const std::filesystem::path& out);

}  // namespace nibble
