// What a study measures: read from a TOML file and the command line, checked, and expanded into cells.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "study/store.h"

namespace nibble {

// A model that was quantized before the study: measured as it is, in a variant of its own.
struct QuantizedModel {
  std::string model;   // as the user named it
  std::string of;      // the unquantized one among the study's models; empty: none is known
  std::string method;  // what its files say (describe_quantized); empty: nobody has looked yet
  int bits = 0;        // of most of its linears
  int group_size = 0;  // likewise; 0: a whole row
  bool operator==(const QuantizedModel&) const = default;
  Variant variant() const { return {of.empty() ? model : of, method, bits, group_size, model}; }
};

// One of the study's models that was fine-tuned from another of them: the report holds them side by side.
struct FineTunedModel {
  std::string model, base;  // as the user named them
  bool operator==(const FineTunedModel&) const = default;
};

// What a study file or a command line says; empty: nothing. Meanings as in StudyPlan.
struct StudyMethod {
  std::string name;
  std::optional<std::vector<int>> group_sizes;
  std::optional<int> bits;
};
struct StudyOptions {
  std::optional<std::vector<std::string>> models, tasks;
  std::optional<std::vector<StudyMethod>> methods;
  std::vector<QuantizedModel> quantized;        // file only
  std::vector<FineTunedModel> finetuned;        // file only
  std::optional<std::vector<int>> group_sizes;  // file: of methods without their own; command line: of all
  std::optional<int> bits;                      // likewise
  std::optional<int64_t> limit, seed;
  std::optional<int> shots, samples, seqlen, window, threads;
  std::optional<bool> same_examples, symmetric;
  std::optional<std::filesystem::path> data;
  std::optional<std::vector<std::filesystem::path>> calibration;
  std::optional<std::string> dtype, device;
  std::optional<int> bench_prompt, bench_generate, bench_repetitions;
  std::optional<int> kl_windows, kl_window;
};

// One method at one width; a variant for each group size.
struct MethodPlan {
  std::string name;
  int bits = 4;
  std::vector<int> group_sizes = {16, 64};  // weights that share a scale; 0: a whole row
};

struct StudyPlan {
  std::vector<std::string> models;        // as the user named them
  std::vector<QuantizedModel> quantized;  // not among `models`
  std::vector<FineTunedModel> finetuned;  // both among `models`
  std::vector<MethodPlan> methods = {{"gptq"}, {"gsq"}};
  std::vector<std::string> tasks = {"boolq", "msmarco", "gsm8k", "wikitext"};
  std::optional<int64_t> limit;  // rows per task; none: all
  std::optional<int> shots;      // GSM8K's examples in the prompt; none: the task's default
  int64_t seed = 0;
  std::optional<std::filesystem::path> data;  // absolute; none: what `nibble eval` takes by itself
  bool same_examples = false;                 // before every row of GSM8K: they run once
  bool symmetric = false;
  std::vector<std::filesystem::path> calibration;  // absolute; empty: the built-in mixture
  std::optional<int> samples, seqlen;              // of calibration, in sequences and tokens
  std::optional<int> window;                       // of perplexity, in tokens
  std::optional<std::string> dtype;                // "float32", "bfloat16"
  std::optional<std::string> device;               // "cpu", "cuda": of evaluations and benches
  int threads = 0;                                 // 0: all of this process, until resolve_plan() counts them
  int bench_prompt = 128, bench_generate = 32;     // tokens
  int bench_repetitions = 3;                       // 0: no bench
  int kl_windows = 16;  // of the task wikitext's text, where it is among the tasks; 0: no distance measured
  std::optional<int> kl_window;  // tokens of each; none: the default of `nibble compare`

  void validate() const;     // throws UsageError naming the key
  void check_files() const;  // that data and calibration are there; throws UsageError
};

// Throws UsageError naming file, line and key: syntax, unknown keys, wrong types, impossible values.
StudyOptions parse_study(std::string_view toml, std::string_view where);
StudyOptions read_study_file(const std::filesystem::path& path);

// The command line wins over the file. Methods and models named on the command line keep what the file says
// of them. Relative paths are of the current directory; threads are counted.
StudyPlan resolve_plan(const StudyOptions& file, const StudyOptions& command_line);

// A study file that resolves to the same plan.
std::string to_toml(const StudyPlan& plan);

// What results.db keeps of plan.finetuned, under "finetuned": [{"model", "base"}, …].
std::string finetuned_json(const StudyPlan& plan);

// Per model: the baseline on all tasks, then bench; then each method and group size the same way, with its
// distance to the baseline ("kl") between the two; then what was quantized before the same way. Last come
// quantized models without a baseline, which have no distance. Throws Error where nobody has looked at one.
std::vector<Cell> planned_cells(const StudyPlan& plan);

// Throws Error naming the option when results under both plans could not stand in one table. Models,
// methods, group sizes and tasks may differ.
void check_same_study(const StudyPlan& before, const StudyPlan& now, std::string_view where);

}  // namespace nibble
