// A table of text, laid out for Markdown (aligned when read raw) or for a terminal of limited width.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::report {

enum class Align { kLeft, kRight };

struct TableHead {
  std::string title;
  Align align = Align::kLeft;
};

struct TextTable {
  std::vector<TableHead> heads;
  std::vector<std::vector<std::string>> rows;  // each as long as `heads`
  // Terminal only: one line under row i, indented and wrapped; may be shorter than `rows`.
  std::vector<std::string> notes;
};

// Code points of a UTF-8 text: its width where every character is one column wide.
size_t display_width(std::string_view text);

// `text` cut at spaces into lines of at most `width`; a longer word is cut. Never empty.
std::vector<std::string> wrap(std::string_view text, size_t width);

// Cells keep one line each; "|" is escaped, line breaks become spaces.
std::string to_markdown(const TextTable& table);

// Left-aligned columns give way, the widest first, until a line fits into `width`; their cells wrap.
std::string to_terminal(const TextTable& table, size_t width);

}  // namespace nibble::report
