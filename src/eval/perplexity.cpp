// Perplexity of a text (WikiText), by the rule of the GPTQ paper: one stream, disjoint windows.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/stopwatch.h"
#include "eval/statistics.h"
#include "eval/task_parts.h"
#include "eval/windows.h"

namespace nibble {
namespace {

constexpr int kDefaultWindow = 2048;

int choose_window(const LanguageModel& model, int asked) {
  if (asked > model.max_context()) {
    throw UsageError(
        fmt::format("window {}: the model allows at most {} tokens", asked, model.max_context()));
  }
  return asked > 0 ? asked : std::min(kDefaultWindow, model.max_context());
}

// Counts words (`\s+` split) and bytes of a text that comes in pieces; a word that spans pieces
// counts where it starts.
class TextSize {
 public:
  void add(std::string_view piece) {
    bytes = static_cast<double>(piece.size());
    words = 0;
    for (const char c : piece) {
      const bool space = std::string_view(" \t\n\v\f\r").find(c) != std::string_view::npos;
      words += !space && !in_word_;
      in_word_ = !space;
    }
  }
  double bytes = 0, words = 0;  // of the last piece

 private:
  bool in_word_ = false;
};

}  // namespace

void run_wikitext(LanguageModel& model, const TaskOptions& options, const ProgressFn& progress,
                  TaskResult& result) {
  const TaskInfo& task = find_task("wikitext");
  result.shots = 0;
  const std::string split = canonical_split(options.split, task.default_split);
  const DataFile file = open_task_file(options.data_dir, task.name, split);
  result.split = split;
  result.data_sha256 = file.sha256;

  const int window = choose_window(model, options.window);
  const std::vector<int32_t> stream = model.tokenizer().encode(file.text);
  const auto windows = cut_windows(stream, window, options.limit);
  if (windows.empty()) fail("{}: too short to predict a token", file.path.string());

  // Batches report as they finish: the time between two reports, shared by the windows between.
  std::vector<double> latency;
  double last_seconds = 0;
  size_t last_done = 0;
  model.window_nll(std::span(windows).first(1), {});  // warm-up
  const Stopwatch watch;
  const std::vector<double> nll = model.window_nll(windows, [&](size_t done, size_t total) {
    const double now = watch.seconds();
    if (done > last_done && done <= windows.size()) {
      const double each = (now - last_seconds) * 1000 / static_cast<double>(done - last_done);
      latency.insert(latency.end(), done - last_done, each);
      last_seconds = now;
      last_done = done;
    }
    if (progress) progress(done, total);
  });
  const double seconds = watch.seconds();
  NIBBLE_CHECK(nll.size() == windows.size());

  TextSize size;
  std::vector<double> tokens, words, bytes;
  double scored = 0, predicted = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    const Tokenizer& tokenizer = model.tokenizer();
    size.add(w == 0 ? tokenizer.decode(windows[w]) : tokenizer.decode_within(windows[w]));
    words.push_back(size.words);
    bytes.push_back(size.bytes);
    tokens.push_back(static_cast<double>(windows[w].size() - 1));
    scored += static_cast<double>(windows[w].size());
    predicted += tokens.back();
    Sample sample;
    sample.key = sample.cluster = std::to_string(w);
    sample.score = nll[w];
    sample.tokens = tokens.back();
    sample.detail = Json::object();
    result.samples.push_back(std::move(sample));
  }
  result.metrics["ppl"] = perplexity_metric(nll, tokens);
  result.metrics["word_ppl"] = perplexity_metric(nll, words);
  const Estimate per_byte = ratio_of_sums(nll, bytes);
  const Estimate bits{per_byte.value / std::numbers::ln2, per_byte.stderr_ / std::numbers::ln2};
  const Interval interval = t_interval(bits, static_cast<double>(windows.size()));
  result.metrics["bits_per_byte"] = {bits.value, bits.stderr_, interval.low, interval.high};
  result.latency_ms = percentile_summary(latency);
  if (seconds > 0) result.prompt_tokens_per_s = scored / seconds;
  result.checks["window"] = static_cast<double>(windows.front().size());
  result.checks["predicted_tokens"] = predicted;
  // The tail that fills no window, and what a limit left.
  result.checks["tokens_left_out"] = static_cast<double>(stream.size()) - scored;
}

}  // namespace nibble
