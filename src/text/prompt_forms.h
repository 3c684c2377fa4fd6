// The questions of the tasks as models are asked them (docs/tasks.md): in evaluation, calibration and
// training.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace nibble {

inline std::string boolq_prompt(std::string_view passage, std::string_view question) {
  return fmt::format("{}\nQuestion: {}?\nAnswer:", passage, question);
}

inline std::string gsm8k_prompt(std::string_view question) {
  return fmt::format("Question: {}\nAnswer:", question);
}

}  // namespace nibble
