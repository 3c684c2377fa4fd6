#include "eval/windows.h"

#include "base/error.h"

namespace nibble {

std::vector<std::vector<int32_t>> cut_windows(std::span<const int32_t> stream, int window, int64_t limit) {
  NIBBLE_CHECK(window >= 2 && limit >= 0);
  const size_t size = static_cast<size_t>(window);
  std::vector<std::vector<int32_t>> windows;
  if (stream.size() >= 2 && stream.size() < size) windows.emplace_back(stream.begin(), stream.end());
  for (size_t begin = 0; begin + size <= stream.size(); begin += size) {
    if (limit > 0 && windows.size() == static_cast<size_t>(limit)) break;
    const auto part = stream.subspan(begin, size);
    windows.emplace_back(part.begin(), part.end());
  }
  return windows;
}

std::vector<std::vector<int32_t>> comparison_windows(std::span<const int32_t> stream, int window,
                                                     int64_t limit, int32_t start_token) {
  if (window < 4) throw UsageError(fmt::format("window {}: at least 4 tokens", window));
  if (limit < 0) throw UsageError(fmt::format("windows {}: at least 1, or 0 for all", limit));
  const size_t own = static_cast<size_t>(window) - (start_token >= 0 ? 1 : 0);
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = 0; begin + own <= stream.size(); begin += own) {
    if (limit > 0 && windows.size() == static_cast<size_t>(limit)) break;
    std::vector<int32_t>& next = windows.emplace_back();
    next.reserve(static_cast<size_t>(window));
    if (start_token >= 0) next.push_back(start_token);
    next.insert(next.end(), stream.begin() + static_cast<std::ptrdiff_t>(begin),
                stream.begin() + static_cast<std::ptrdiff_t>(begin + own));
  }
  if (windows.empty())
    fail("the text has {} tokens, one window needs {}: give a longer text", stream.size(), own);
  return windows;
}

std::pair<size_t, size_t> scored_positions(int window) {
  NIBBLE_CHECK(window >= 4);
  return {static_cast<size_t>(window) / 2, static_cast<size_t>(window) - 1};
}

}  // namespace nibble
