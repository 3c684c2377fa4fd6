// Questions with answers as tokens.
#include "quant/calibration.h"
#include "text/prompt_forms.h"
#include "train/finetune.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::string without_marks(std::string text) {
  for (size_t begin; (begin = text.find("<<")) != std::string::npos;) {
    const size_t end = text.find(">>", begin);
    if (end == std::string::npos) break;
    text.erase(begin, end + 2 - begin);
  }
  return text;
}

// Prompt and completion of a row.
std::pair<std::string, std::string> prompt_and_completion(const Json& row, bool strip_marks,
                                                          const std::string& where) {
  if (row.contains("prompt"))
    return {json_get<std::string>(row, "prompt", where), json_get<std::string>(row, "completion", where)};
  const std::string answer = json_get<std::string>(row, "answer", where);
  return {gsm8k_prompt(json_get<std::string>(row, "question", where)),
          " " + (strip_marks ? without_marks(answer) : answer)};
}

}  // namespace

TrainingText load_training_text(const fs::path& file, const Model& model, const Tokenizer& tokenizer,
                                const FineTuneOptions& o) {
  refuse_test_split(file);
  const int context = std::min(o.context, model.config.max_context);
  TrainingText text;
  const std::vector<Json> rows = read_json_lines(file);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto [prompt, completion] =
        prompt_and_completion(rows[i], o.strip_marks, fmt::format("{} row {}", file.string(), i + 1));
    TrainingRow row;
    row.prompt = static_cast<int>(tokenizer.encode(prompt, true).size());
    row.tokens = tokenizer.encode(prompt + completion, true);
    if (!model.config.end_tokens.empty()) row.tokens.push_back(model.config.end_tokens.front());
    if (static_cast<int>(row.tokens.size()) > context) {
      ++text.too_long;
    } else if (row.prompt > 0 && row.prompt < static_cast<int>(row.tokens.size())) {
      text.rows.push_back(std::move(row));
    }
  }
  if (text.rows.size() < 2)
    fail("{}: {} rows fit {} tokens, two are needed at least", file.string(), text.rows.size(), context);
  return text;
}

}  // namespace nibble
