// Numbers as the reports print them. U+2212 is the minus; a value that is not finite prints as "nan" or
// "inf".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::report {

// `value` with `decimals` digits after the point; with_sign also prints "+".
std::string fixed(double value, int decimals, bool with_sign = false);
// Three significant digits: 1234.5 → "1230", 45.67 → "45.7", 0.01234 → "0.0123".
std::string three_digits(double value);
// A share as per cent without the sign: 0.7512 → "75.1".
std::string percent(double share, bool with_sign = false);
// Perplexities: three decimals below 10, two below 1000, else three significant digits.
std::string perplexity(double value);
// Bytes as MB (10⁶) with one decimal.
std::string megabytes(double bytes, bool with_sign = false);
// "0.031", "< 0.001"; never "0.000".
std::string p_value(double p);
// "[low, high]" of two numbers already printed.
std::string interval(std::string_view low, std::string_view high);
// The 64-bit FNV-1a hash of a text, to be continued from `seed`.
uint64_t hash_text(std::string_view text, uint64_t seed = 0xcbf29ce484222325ull);
// Control characters as spaces: stored text must neither break a line nor reach a terminal as a command.
std::string one_line(std::string_view text);
// "1 cell", "3 cells".
std::string counted(size_t n, std::string_view noun);

}  // namespace nibble::report
