// Names from untrusted files, made fit for a one-line message.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// 'name' in quotes: control bytes and bytes past ASCII become '?', at most 80 bytes are shown.
inline std::string quote_name(std::string_view name) {
  constexpr size_t kShown = 80;
  std::string text = "'";
  for (char c : name.substr(0, kShown)) text += c >= 32 && c < 127 ? c : '?';
  if (name.size() > kShown) text += "…";
  return text + "'";
}

// What another library says of a file, which may quote it: control bytes become '?'.
inline std::string on_one_line(std::string_view message) {
  std::string text(message);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
  }
  return text;
}

}  // namespace nibble
