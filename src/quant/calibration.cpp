#include "quant/calibration.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/sha256.h"
#include "text/prompt_forms.h"

namespace nibble {
namespace {

// A row of a task's file in the form of its prompt (docs/tasks.md), answered rightly.
std::string row_text(const Json& row, const std::string& where) {
  const auto has = [&](const char* key) { return row.contains(key); };
  if (has("text")) return json_get<std::string>(row, "text", where);
  if (has("question") && has("passage"))
    return boolq_prompt(json_get<std::string>(row, "passage", where),
                        json_get<std::string>(row, "question", where)) +
           (json_get<bool>(row, "answer", where) ? " yes" : " no");
  if (has("question"))
    return gsm8k_prompt(json_get<std::string>(row, "question", where)) + " " +
           json_get<std::string>(row, "answer", where);
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

// What a model is judged by, as the data sets' own files and those of data/mini hold it: SHA-256.
struct TestSplit {
  std::string_view sha256, name;
};
constexpr std::array<TestSplit, 10> kTestSplits = {{
    {"83d04989453d9c0ef380ddca8325275dde0c14793d8c697e0e4ea7683d16e176", "BoolQ's validation split"},
    {"c7b9faacd224d7cd6d5e8f063db0f455b4236e4a4e61c7a02b0f852d147366e8", "GSM8K's test split"},
    {"ff7d6a6881995c171622a2caffbc06d0953d3658d70169498944d0248938e84a",
     "the judged passages of TREC-DL 2019"},
    {"8c45abf363409269955a07ed322048ff1bf6844b92b4b5d4bf2f34dfd67a0c46", "MS MARCO's validation split"},
    {"173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08", "WikiText-2's test split"},
    {"4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7", "WikiText-2's validation split"},
    {"3402d0e3db59c533c744d9275837c600e8714c410a9f852034ac2b3844b48744", "the bundled BoolQ validation rows"},
    {"178017d83c4386f8487513c4f4d55c510730d60723a4fba61947546be440ea7e", "the bundled GSM8K test rows"},
    {"008b0b0bbbf184e9dfc7e00fab3c834866b6e70364a9207ae9ef332b02126009",
     "the bundled MS MARCO validation rows"},
    {"59895735a4f0f2769d99ac4cea84f64be6ca50b0d2ebf8f8681576384eb76014", "the bundled WikiText test text"},
}};

// random: shuffles the rows; null: in their order.
std::string text_of(const std::filesystem::path& file, Random* random) {
  const std::string extension = file.extension().string();
  if (extension != ".jsonl" && extension != ".json") return read_file(file);
  std::vector<Json> rows = read_json_lines(file);
  if (random) random->shuffle(rows);
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

void refuse_test_split(const std::filesystem::path& file) {
  const std::string hex = sha256_of(read_file(file));
  for (const TestSplit& split : kTestSplits) {
    if (hex == split.sha256)
      throw UsageError(
          fmt::format("{}: {}: a model calibrated with it cannot be judged by it; use a training split",
                      file.string(), split.name));
  }
}

Calibration load_calibration(const CalibrationOptions& options, const Tokenizer& tokenizer) {
  if (options.samples < 1 || options.seqlen < 2) fail("calibration needs at least 1 sample of 2 tokens");
  if (options.files.empty()) fail("no calibration text: name files with --calibration");
  for (const auto& file : options.files) refuse_test_split(file);
  Random random(options.seed);
  Calibration out;
  std::vector<std::vector<std::vector<int32_t>>> drawn;
  for (const auto& file : options.files)
    drawn.push_back(
        draw(text_of(file, &random), tokenizer, options, static_cast<size_t>(options.samples), random));
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

size_t Calibration::longest() const {
  size_t most = 1;
  for (const auto& sample : samples) most = std::max(most, sample.size());
  return most;
}

std::string prompt_text(const std::filesystem::path& file) { return text_of(file, nullptr); }

std::vector<std::filesystem::path> bundled_calibration(const std::filesystem::path& dir) {
  return {dir / "wikitext.train.txt", dir / "gsm8k.train.jsonl", dir / "boolq.train.jsonl",
          dir / "msmarco.train.jsonl"};
}

}  // namespace nibble
