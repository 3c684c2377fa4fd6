// Where the tests find their data.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace nibble::testing {

inline std::filesystem::path source_dir() { return NIBBLE_SOURCE_DIR; }
inline std::filesystem::path mini_dir() { return source_dir() / "data" / "mini"; }

// The folder of shared public data: $NIBBLE_SHARED, or ../shared beside the checkout, there or not.
inline std::filesystem::path shared_dir() {
  if (const char* given = std::getenv("NIBBLE_SHARED")) return given;
  return source_dir().parent_path() / "shared";
}

// Fetched real models: $XDG_CACHE_HOME/nibble/models or ~/.cache/nibble/models.
inline std::filesystem::path fetched_models_dir() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"))
    return std::filesystem::path(cache) / "nibble" / "models";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : "") / ".cache" / "nibble" / "models";
}

}  // namespace nibble::testing

// Skips, and says so, where shared data is not there.
#define NIBBLE_NEEDS(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << (path).string() << ", which is not here"
