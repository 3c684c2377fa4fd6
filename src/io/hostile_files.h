// Damaged copies of a valid file, for the tests of the readers.
#pragma once

#include <algorithm>
#include <string>

#include "base/random.h"
#include "io/test_files.h"

namespace nibble {

// A new file each time: rewriting one in place makes some file systems sync it.
inline void replace_file(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::remove(path);
  write_text(path, bytes);
}

// Opens every beginning of the file: each length up to `dense`, then every `step`-th. All must
// throw Error: no reader may take a part for the whole.
template <typename Open>
void expect_truncations_refused(const std::string& whole, size_t dense, size_t step, Open&& open) {
  const TemporaryDirectory dir;
  for (size_t size = 0; size < whole.size(); size += size < dense ? 1 : step) {
    replace_file(dir / "file", std::string_view(whole).substr(0, size));
    EXPECT_NE(error_of([&] { open(dir / "file"); }), "")
        << "the first " << size << " of " << whole.size() << " bytes";
  }
}

// Replaces 1 to 4 bytes of the first `region`, `n` times over; each ends in Error or success (any
// other exception, or a sanitizer's finding, fails the test). Returns how many were refused.
template <typename Open>
int open_with_random_bytes(const std::string& whole, size_t region, int n, uint64_t seed, Open&& open) {
  const TemporaryDirectory dir;
  Random random(seed);
  int refused = 0;
  for (int i = 0; i < n; ++i) {
    std::string damaged = whole;
    for (uint64_t k = random.below(4) + 1; k > 0; --k) {
      static constexpr unsigned char kExtremes[] = {0, 1, 0x7f, 0x80, 0xff};
      const uint64_t choice = random.below(10);
      damaged[random.below(std::min(region, whole.size()))] =
          static_cast<char>(choice < 5 ? kExtremes[choice] : random.below(256));
    }
    replace_file(dir / "file", damaged);
    refused += error_of([&] { open(dir / "file"); }) != "";
  }
  return refused;
}

}  // namespace nibble
