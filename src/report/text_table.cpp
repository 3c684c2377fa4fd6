#include "report/text_table.h"

#include <algorithm>

#include "base/error.h"
#include "report/format.h"

namespace nibble::report {
namespace {

constexpr std::string_view kGap = "  ";
constexpr size_t kNarrowestColumn = 8;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// The first `n` code points of `text`, in bytes.
size_t prefix_bytes(std::string_view text, size_t n) {
  size_t i = 0;
  for (size_t seen = 0; i < text.size(); ++i) {
    if (!is_continuation(text[i]) && seen++ == n) break;
  }
  return i;
}

std::string padded(std::string_view text, size_t width, Align align) {
  const size_t have = display_width(text);
  const std::string space(width > have ? width - have : 0, ' ');
  return align == Align::kLeft ? std::string(text) + space : space + std::string(text);
}

std::string markdown_cell(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::vector<size_t> column_widths(const TextTable& table) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < table.heads.size(); ++c) {
    size_t width = display_width(table.heads[c].title);
    for (const auto& row : table.rows) width = std::max(width, display_width(row[c]));
    widths.push_back(width);
  }
  return widths;
}

void trim_right(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

void append_wrapped_row(std::string& out, const TextTable& table, const std::vector<size_t>& widths,
                        const std::vector<std::string>& cells) {
  std::vector<std::vector<std::string>> lines;
  size_t height = 1;
  for (size_t c = 0; c < cells.size(); ++c) {
    lines.push_back(wrap(cells[c], widths[c]));
    height = std::max(height, lines.back().size());
  }
  for (size_t h = 0; h < height; ++h) {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      const std::string_view text = h < lines[c].size() ? std::string_view(lines[c][h]) : std::string_view();
      if (c > 0) line += kGap;
      line += padded(text, widths[c], table.heads[c].align);
    }
    trim_right(line);
    out += line + "\n";
  }
}

}  // namespace

size_t display_width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

std::vector<std::string> wrap(std::string_view text, size_t width) {
  width = std::max<size_t>(width, 1);
  std::vector<std::string> lines(1);
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = std::min(text.find(' ', begin), text.size());
    std::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    if (word.empty()) continue;
    const size_t used = display_width(lines.back());
    if (used > 0 && used + 1 + display_width(word) > width) lines.emplace_back();
    while (display_width(word) > width) {
      const size_t cut = prefix_bytes(word, width);
      lines.back() = word.substr(0, cut);
      lines.emplace_back();
      word.remove_prefix(cut);
    }
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
  }
  return lines;
}

std::string to_markdown(const TextTable& table) {
  TextTable escaped = table;
  for (auto& row : escaped.rows) {
    NIBBLE_CHECK(row.size() == table.heads.size());
    for (auto& cell : row) cell = markdown_cell(cell);
  }
  auto widths = column_widths(escaped);
  for (auto& width : widths) width = std::max<size_t>(width, 3);  // a rule needs three dashes
  std::string out = "|";
  for (size_t c = 0; c < widths.size(); ++c) {
    out += " " + padded(escaped.heads[c].title, widths[c], escaped.heads[c].align) + " |";
  }
  out += "\n|";
  for (size_t c = 0; c < widths.size(); ++c) {
    const bool right = escaped.heads[c].align == Align::kRight;
    out += " " + std::string(widths[c] - (right ? 1 : 0), '-') + (right ? ":" : "") + " |";
  }
  out += "\n";
  for (const auto& row : escaped.rows) {
    out += "|";
    for (size_t c = 0; c < widths.size(); ++c)
      out += " " + padded(row[c], widths[c], escaped.heads[c].align) + " |";
    out += "\n";
  }
  return out;
}

std::string to_terminal(const TextTable& table, size_t width) {
  TextTable shown = table;
  for (auto& row : shown.rows) {
    NIBBLE_CHECK(row.size() == table.heads.size());
    for (auto& cell : row) cell = one_line(cell);
  }
  auto widths = column_widths(shown);
  const auto total = [&] {
    size_t sum = kGap.size() * (widths.empty() ? 0 : widths.size() - 1);
    for (const size_t w : widths) sum += w;
    return sum;
  };
  while (total() > width) {
    size_t widest = widths.size();
    for (size_t c = 0; c < widths.size(); ++c) {
      if (shown.heads[c].align != Align::kLeft || widths[c] <= kNarrowestColumn) continue;
      if (widest == widths.size() || widths[c] > widths[widest]) widest = c;
    }
    if (widest == widths.size()) break;
    --widths[widest];
  }
  std::vector<std::string> titles;
  for (const auto& head : shown.heads) titles.push_back(head.title);
  std::string out;
  append_wrapped_row(out, shown, widths, titles);
  for (size_t i = 0; i < std::min(total(), width); ++i) out += "─";
  out += "\n";
  for (size_t r = 0; r < shown.rows.size(); ++r) {
    append_wrapped_row(out, shown, widths, shown.rows[r]);
    if (r >= shown.notes.size() || shown.notes[r].empty()) continue;
    constexpr size_t kIndent = 4;
    for (const auto& line : wrap(one_line(shown.notes[r]), width - std::min(width - 1, kIndent))) {
      out += std::string(kIndent, ' ') + line + "\n";
    }
  }
  return out;
}

}  // namespace nibble::report
