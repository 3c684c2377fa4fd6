// UTF-8 that may be broken, and the two character classes that added tokens ask about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

struct CodePoint {
  int32_t value = -1;  // -1: the bytes are not valid UTF-8
  size_t size = 0;     // bytes; 0 when there are none, 1 when they are not valid
};

CodePoint first_code_point(std::string_view text);
CodePoint last_code_point(std::string_view text);

// Length of the longest prefix that is valid UTF-8, and of the longest without any valid character.
size_t valid_prefix(std::string_view text);
size_t invalid_prefix(std::string_view text);

// Calls on_text for each maximal run of valid UTF-8 and on_bytes for each run between them, in order.
template <typename OnText, typename OnBytes>
void for_each_utf8_run(std::string_view text, OnText&& on_text, OnBytes&& on_bytes) {
  while (!text.empty()) {
    if (const size_t n = valid_prefix(text); n > 0) {
      on_text(text.substr(0, n));
      text.remove_prefix(n);
    }
    if (const size_t n = invalid_prefix(text); n > 0) {
      on_bytes(text.substr(0, n));
      text.remove_prefix(n);
    }
  }
}

// Unicode's White_Space; \s of Rust's regex crate and of Oniguruma.
bool is_white_space(int32_t code_point);
// \w of Rust's regex crate: Alphabetic, M, Nd, Pc, Join_Control.
bool is_word_character(int32_t code_point);

void append_utf8(std::string& out, int32_t code_point);

}  // namespace nibble
