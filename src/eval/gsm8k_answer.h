// Reading the number out of an answer, by lm-evaluation-harness' rules (gsm8k, version 3.0).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble {

// The first match of `#### (\-?[0-9\.\,]+)`: the number behind the mark, as written.
std::optional<std::string> extract_strict(std::string_view text);

// The last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`, as written.
std::optional<std::string> extract_flexible(std::string_view text);

// Without `,` and `$`, without everything up to the last "#### ", without a final '.'. Works on an
// extracted number and on a whole gold answer.
std::string normalize_answer(std::string_view text);

// What a generated answer says: extract_flexible(), normalized.
std::optional<std::string> generated_number(std::string_view text);

}  // namespace nibble
