#include "quant/calibration.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/sha256.h"

namespace nibble {
namespace {

// A row of a task's file in the form of its prompt (docs/tasks.md), answered rightly.
std::string row_text(const Json& row, const std::string& where) {
  const auto has = [&](const char* key) { return row.contains(key); };
  if (has("text")) return json_get<std::string>(row, "text", where);
  if (has("question") && has("passage"))
    return fmt::format("{}\nQuestion: {}?\nAnswer:{}", json_get<std::string>(row, "passage", where),
                       json_get<std::string>(row, "question", where),
                       json_get<bool>(row, "answer", where) ? " yes" : " no");
  if (has("question"))
    return fmt::format("Question: {}\nAnswer: {}", json_get<std::string>(row, "question", where),
                       json_get<std::string>(row, "answer", where));
  if (has("query") && has("passages")) {
    const Json passages = json_get<Json>(row, "passages", where);
    const auto texts = json_get<std::vector<std::string>>(passages, "passage_text", where);
    const auto selected = json_get<std::vector<int>>(passages, "is_selected", where);
    std::string text;
    for (size_t i = 0; i < std::min(texts.size(), selected.size()); ++i)
      text += fmt::format("{}Passage: {}\nQuery: {}\nDoes the passage answer the query?\nAnswer:{}",
                          text.empty() ? "" : "\n\n", texts[i], json_get<std::string>(row, "query", where),
                          selected[i] ? " Yes" : " No");
    return text;
  }
  fail("{}: neither 'text' nor the keys of a known task", where);
}

std::string read_text(const std::filesystem::path& file, Random& random) {
  const std::string extension = file.extension().string();
  if (extension != ".jsonl" && extension != ".json") return read_file(file);
  std::vector<Json> rows = read_json_lines(file);
  random.shuffle(rows);
  std::string text;
  for (size_t i = 0; i < rows.size(); ++i)
    text += row_text(rows[i], fmt::format("{} row {}", file.string(), i + 1)) + "\n\n";
  return text;
}

// The file's samples in the order drawn; at most `wanted`.
std::vector<std::vector<int32_t>> draw(const std::string& text, const Tokenizer& tokenizer,
                                       const CalibrationOptions& o, size_t wanted, Random& random) {
  const int32_t start = tokenizer.start_token();
  const size_t room = static_cast<size_t>(o.seqlen) - (start >= 0 ? 1 : 0);
  // Four bytes a token and more is usual; text far beyond the need is not tokenized.
  const size_t enough = wanted * room * 16 + (size_t{1} << 20);
  const std::vector<int32_t> stream = tokenizer.encode(std::string_view(text).substr(0, enough), false);
  size_t windows = stream.size() / room;
  if (windows == 0 && !stream.empty()) windows = 1;
  std::vector<size_t> order(windows);
  std::iota(order.begin(), order.end(), size_t{0});
  random.shuffle(order);
  std::vector<std::vector<int32_t>> samples;
  for (size_t i = 0; i < std::min(wanted, windows); ++i) {
    std::vector<int32_t> sample;
    if (start >= 0) sample.push_back(start);
    const size_t from = order[i] * room, to = std::min(stream.size(), from + room);
    sample.insert(sample.end(), stream.begin() + static_cast<std::ptrdiff_t>(from),
                  stream.begin() + static_cast<std::ptrdiff_t>(to));
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace

Calibration load_calibration(const CalibrationOptions& options, const Tokenizer& tokenizer) {
  if (options.samples < 1 || options.seqlen < 2) fail("calibration needs at least 1 sample of 2 tokens");
  if (options.files.empty()) fail("no calibration text: name files with --calibration");
  Random random(options.seed);
  Calibration out;
  std::vector<std::vector<std::vector<int32_t>>> drawn;
  for (const auto& file : options.files)
    drawn.push_back(
        draw(read_text(file, random), tokenizer, options, static_cast<size_t>(options.samples), random));
  std::vector<size_t> taken(drawn.size(), 0);
  for (size_t total = 0; total < static_cast<size_t>(options.samples);) {  // one from each in turn
    const size_t before = total;
    for (size_t f = 0; f < drawn.size() && total < static_cast<size_t>(options.samples); ++f) {
      if (taken[f] == drawn[f].size()) continue;
      out.samples.push_back(drawn[f][taken[f]++]);
      ++total;
    }
    if (total == before) break;
  }
  for (size_t f = 0; f < drawn.size(); ++f)
    out.sources.push_back({options.files[f].filename().string(), static_cast<int>(taken[f])});
  Sha256 hash;
  for (const auto& sample : out.samples) {
    out.tokens += static_cast<int64_t>(sample.size());
    hash.update(std::as_bytes(std::span(sample)));
  }
  if (out.tokens == 0) fail("the calibration files hold no text");
  out.sha256 = hash.hex();
  return out;
}

std::vector<std::filesystem::path> bundled_calibration(const std::filesystem::path& dir) {
  return {dir / "wikitext.train.txt", dir / "gsm8k.train.jsonl", dir / "boolq.train.jsonl",
          dir / "msmarco.train.jsonl"};
}

}  // namespace nibble
