#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"

namespace nibble {
namespace {

TEST(MappedFile, ReleasedPartsAreReadAgain) {
  const auto path = std::filesystem::temp_directory_path() / ("nibble_release_" + std::to_string(::getpid()));
  std::string text(100'000, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7);
  write_file_atomically(path, text);
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);
  const auto same = [&] { return std::ranges::equal(file->bytes(), std::as_bytes(std::span(text))); };
  EXPECT_TRUE(same());
  file->release(file->bytes());
  file->release(file->bytes().subspan(5000, 20000));
  file->release(file->bytes().subspan(10, 10));  // less than a page
  file->release({});
  EXPECT_TRUE(same());
}

}  // namespace
}  // namespace nibble
