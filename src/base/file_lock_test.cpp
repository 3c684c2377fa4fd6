#include "base/file_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"

namespace nibble {
namespace {

TEST(FileLock, HasOneHolder) {
  const auto path = std::filesystem::temp_directory_path() / ("nibble-lock-" + std::to_string(::getpid()));
  const auto said = [&](double patience) -> std::string {
    try {
      const FileLock lock(path, patience, "somebody has it");
    } catch (const Error& e) {
      return e.what();
    }
    return "held";
  };
  {
    const FileLock lock(path, 0, "");
    EXPECT_EQ(said(0), "somebody has it");
    EXPECT_EQ(said(0.05), "somebody has it");
  }
  EXPECT_EQ(said(0), "held");
  std::filesystem::remove(path);
  EXPECT_THROW(FileLock("/nonexistent/lock", 0, ""), Error);
}

}  // namespace
}  // namespace nibble
