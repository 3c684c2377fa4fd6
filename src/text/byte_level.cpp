#include "text/byte_level.h"

#include <array>
#include <charconv>
#include <cstdint>

#include <fmt/format.h>

#include "text/unicode.h"

namespace nibble {
namespace {

// Printable Latin-1 characters stand for themselves; the 68 other bytes follow from U+0100.
constexpr int kAlphabetEnd = 0x100 + 68;

struct Alphabet {
  std::array<int16_t, kAlphabetEnd> byte;  // by code point; -1: not in the alphabet

  constexpr Alphabet() : byte() {
    for (auto& b : byte) b = -1;
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      byte[printable ? b : next++] = static_cast<int16_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

}  // namespace

bool bytes_of_spelling(std::string_view spelled, std::string& bytes) {
  bytes.clear();
  while (!spelled.empty()) {
    const CodePoint c = first_code_point(spelled);
    if (c.value < 0 || c.value >= kAlphabetEnd || kAlphabet.byte[c.value] < 0) return false;
    bytes.push_back(static_cast<char>(kAlphabet.byte[c.value]));
    spelled.remove_prefix(c.size);
  }
  return true;
}

int byte_of_spelling(std::string_view spelled) {
  if (spelled.size() != 6 || !spelled.starts_with("<0x") || !spelled.ends_with('>')) return -1;
  const char *const digits = spelled.data() + 3, *const end = digits + 2;
  int byte = 0;
  const auto [stopped, error] = std::from_chars(digits, end, byte, 16);
  return error == std::errc() && stopped == end && byte >= 0 ? byte : -1;
}

std::string spelling_of_byte(int byte) { return fmt::format("<0x{:02X}>", byte); }

}  // namespace nibble
