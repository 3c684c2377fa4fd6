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

}  // namespace nibble
