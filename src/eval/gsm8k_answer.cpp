#include "eval/gsm8k_answer.h"

namespace nibble {
namespace {

constexpr std::string_view kMark = "#### ";
constexpr std::string_view kDigits = "0123456789";

// Length of the run of `set` characters that starts at `begin`.
size_t run_length(std::string_view text, size_t begin, std::string_view set) {
  const size_t end = text.find_first_not_of(set, begin);
  return (end == std::string_view::npos ? text.size() : end) - begin;
}

}  // namespace

std::optional<std::string> extract_strict(std::string_view text) {
  for (size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at + 1)) {
    const size_t begin = at + kMark.size();
    const size_t sign = begin < text.size() && text[begin] == '-';
    const size_t length = run_length(text, begin + sign, "0123456789.,");
    if (length > 0) return std::string(text.substr(begin, sign + length));
  }
  return std::nullopt;
}

std::optional<std::string> extract_flexible(std::string_view text) {
  std::optional<std::string> last;
  for (size_t i = 0; i < text.size();) {
    const size_t sign = text[i] == '-';
    size_t length = run_length(text, i + sign, "$0123456789.,");
    if (length < 2) length = run_length(text, i + sign, kDigits);
    if (length == 0) {
      ++i;
      continue;
    }
    last = std::string(text.substr(i, sign + length));
    i += sign + length;
  }
  return last;
}

std::string normalize_answer(std::string_view text) {
  std::string answer;
  for (const char c : text) {
    if (c != ',' && c != '$') answer += c;
  }
  const size_t mark = answer.rfind(kMark);
  if (mark != std::string::npos) answer.erase(0, mark + kMark.size());
  if (!answer.empty() && answer.back() == '.') answer.pop_back();
  return answer;
}

std::optional<std::string> generated_number(std::string_view text) {
  const auto number = extract_flexible(text);
  if (!number) return std::nullopt;
  return normalize_answer(*number);
}

}  // namespace nibble
