#include "report/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::report {
namespace {

constexpr std::string_view kMinus = "−";

// Puts the sign in front of the digits of |value|; zero after rounding has none.
std::string signed_text(double value, std::string digits, bool with_sign) {
  const bool is_zero = std::isfinite(value) && digits.find_first_of("123456789") == std::string::npos;
  if (is_zero) return digits;
  if (value < 0) return fmt::format("{}{}", kMinus, digits);
  return with_sign ? "+" + digits : digits;
}

}  // namespace

std::string fixed(double value, int decimals, bool with_sign) {
  if (std::isnan(value)) return "nan";
  return signed_text(value, fmt::format("{:.{}f}", std::abs(value), decimals), with_sign);
}

std::string three_digits(double value) {
  if (!std::isfinite(value) || value == 0) return fixed(value, 0);
  // Rounding may carry into another digit (999.6 → 1000), so the exponent is taken afterwards.
  const double rounded = std::stod(fmt::format("{:.2e}", value));
  const int exponent = static_cast<int>(std::floor(std::log10(std::abs(rounded)) + 1e-9));
  return fixed(rounded, std::clamp(2 - exponent, 0, 12));
}

std::string percent(double share, bool with_sign) { return fixed(share * 100, 1, with_sign); }

std::string perplexity(double value) {
  if (value < 10) return fixed(value, 3);
  if (value < 1000) return fixed(value, 2);
  return value < 1e6 || !std::isfinite(value) ? three_digits(value) : fmt::format("{:.2e}", value);
}

std::string megabytes(double bytes, bool with_sign) { return fixed(bytes / 1e6, 1, with_sign); }

std::string p_value(double p) {
  if (std::isnan(p)) return "nan";
  return p < 0.001 ? "< 0.001" : fixed(p, 3);
}

std::string interval(std::string_view low, std::string_view high) {
  return fmt::format("[{}, {}]", low, high);
}

uint64_t hash_text(std::string_view text, uint64_t seed) {
  uint64_t hash = seed;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

std::string one_line(std::string_view text) {
  std::string out(text);
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; };
  std::replace_if(out.begin(), out.end(), is_control, ' ');
  return out;
}

std::string counted(size_t n, std::string_view noun) {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s");
}

}  // namespace nibble::report
