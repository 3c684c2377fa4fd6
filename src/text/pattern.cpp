#include "text/pattern.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace nibble {
namespace {

// White_Space and what is not White_Space, as members of a set.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{d7ff}\x{e000}-\x{10ffff})";

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      switch (pattern_[at_]) {
        case '\\':
          escape(false);
          break;
        case '[':
          set();
          break;
        case '(':
          group();
          break;
        case '{':
          repeat();
          break;
        default:
          out_ += pattern_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    fail("{}: the split pattern holds '{}', which is not supported: {}", where_, construct, pattern_);
  }
  char peek(size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  void copy(size_t n) {
    out_ += pattern_.substr(at_, n);
    at_ += n;
  }

  void escape(bool in_set) {
    const char c = peek(1);
    const auto members = [&](std::string_view positive, bool negated) {
      if (in_set && beside_range()) refuse("a range to or from " + std::string(pattern_.substr(at_, 2)));
      out_ += in_set ? "" : negated ? "[^" : "[";
      out_ += positive;
      out_ += in_set ? "" : "]";
      at_ += 2;
    };
    switch (c) {
      case 's':
        return members(kSpace, false);
      case 'S':
        return in_set ? members(kNotSpace, false) : members(kSpace, true);
      case 'h':
        return members("0-9A-Fa-f", false);
      case 'v':
        return members(R"(\x{b})", false);
      case 'd':
      case 'D':
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'e':
      case 'a':
        return copy(2);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return hex_escape();
      case 'u':
        return unicode_escape();
      default:
        break;
    }
    if (c == '\0' || is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80) {
      refuse(pattern_.substr(at_, 2));
    }
    copy(2);
  }

  // Whether the class at hand, written as ranges, would join a hyphen beside it.
  bool beside_range() const {
    if (peek(2) == '-' && peek(3) != ']') return true;
    return pattern_[at_ - 1] == '-' &&
           std::string_view("\\[^").find(pattern_[at_ - 2]) == std::string_view::npos;
  }

  void property() {
    const size_t end = pattern_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse(pattern_.substr(at_, 2));
    copy(end + 1 - at_);
  }

  void hex_escape() {  // \x41 or \x{41}; a lone byte past ASCII is no character
    if (peek(2) == '{') {
      const size_t end = pattern_.find('}', at_);
      if (end == std::string_view::npos) refuse("\\x{");
      return copy(end + 1 - at_);
    }
    if (!is_hex(peek(2)) || !is_hex(peek(3)) || peek(2) > '7') refuse(pattern_.substr(at_, 4));
    copy(4);
  }

  void unicode_escape() {
    for (size_t i = 2; i < 6; ++i) {
      if (!is_hex(peek(i))) refuse(pattern_.substr(at_, 6));
    }
    out_.append("\\x{").append(pattern_.substr(at_ + 2, 4)).append("}");
    at_ += 6;
  }

  void set() {
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') refuse("[]");
    while (peek() != ']') {
      if (at_ >= pattern_.size()) refuse("[ without ]");
      if (peek() == '[') refuse("[ inside [ ]");
      if (peek() == '&' && peek(1) == '&') refuse("&&");
      if (peek() == '\\') {
        escape(true);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  // Options: i only, for a group or from the pattern's start; elsewhere the engines differ in its reach.
  void group() {
    if (peek(1) == '*') refuse("(*");
    if (peek(1) != '?') return copy(1);
    for (const std::string_view open : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"}) {
      if (pattern_.substr(at_, open.size()) == open) return copy(open.size());
    }
    if (at_ == 0 && pattern_.starts_with("(?i)")) return copy(4);
    refuse(pattern_.substr(at_, 4));
  }

  // {n}, {n,}, {n,m}, lazy {n,m}?; other braces are literal in both engines, but for {,m}.
  void repeat() {
    size_t n = 1;
    while (is_digit(peek(n))) ++n;
    const bool has_minimum = n > 1, has_comma = peek(n) == ',';
    if (has_comma) ++n;
    while (has_comma && is_digit(peek(n))) ++n;
    if (peek(n) != '}' || (!has_minimum && !has_comma)) return copy(1);
    if (!has_minimum) refuse(pattern_.substr(at_, n + 1));
    if (peek(n + 1) == '+' || peek(n + 1) == '*' || (peek(n + 1) == '?' && !has_comma)) {
      refuse(pattern_.substr(at_, n + 2));
    }
    copy(n + 1);
  }

  std::string_view pattern_, where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma, std::string_view where) {
  return Translator(oniguruma, where).run();
}

}  // namespace nibble
