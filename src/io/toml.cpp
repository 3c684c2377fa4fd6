#include "io/toml.h"

#include "base/error.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

constexpr int kMostParts = 32;

// The line of a key of too many parts, 0 if there is none: dots outside of strings with nothing but names
// between.
int line_of_deep_key(std::string_view text) {
  int line = 1, dots = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      for (++i; i < text.size() && text[i] != c && text[i] != '\n'; ++i) i += c == '"' && text[i] == '\\';
      if (i < text.size() && text[i] == '\n') --i;  // an end that is missing, or a text of several lines
    } else if (c == '.') {
      if (++dots >= kMostParts) return line;
    } else if (c == '\n') {
      ++line;
      dots = 0;
    } else if (std::string_view(",=[]{}#").find(c) != std::string_view::npos) {
      dots = 0;
    }
  }
  return 0;
}

}  // namespace

toml::table parse_toml(std::string_view text, std::string_view where) {
  if (const int line = line_of_deep_key(text))
    throw UsageError(fmt::format("{} line {}: a key of more than {} parts", where, line, kMostParts));
  try {
    return toml::parse(text, where);
  } catch (const toml::parse_error& error) {
    throw UsageError(
        fmt::format("{} line {}: {}", where, error.source().begin.line, on_one_line(error.description())));
  }
}

}  // namespace nibble
