#include "base/memory_usage.h"

#include <gtest/gtest.h>

#include "base/aligned_buffer.h"

#ifdef __has_feature
#define NIBBLE_HAS_FEATURE(name) __has_feature(name)  // clang's way to say it
#else
#define NIBBLE_HAS_FEATURE(name) 0
#endif

namespace nibble {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = NIBBLE_HAS_FEATURE(address_sanitizer);
#endif

TEST(MemoryUsage, SeesABufferComeAndGo) {
  if (kAddressSanitizer) GTEST_SKIP() << "the address sanitizer keeps freed memory for a while";
  constexpr size_t kBytes = size_t{64} << 20;
  const uint64_t before = rss_bytes();
  ASSERT_GT(before, 0u);
  {
    AlignedBuffer<char> buffer(kBytes);
    EXPECT_GE(rss_bytes(), before + kBytes * 9 / 10);
  }
  EXPECT_LT(rss_bytes(), before + kBytes / 2);
  EXPECT_GE(peak_rss_bytes(), before + kBytes * 9 / 10);  // the peak stays
  if (!reset_peak_rss()) GTEST_SKIP() << "the kernel does not let a process reset its peak";
  EXPECT_LT(peak_rss_bytes(), before + kBytes / 2);
}

TEST(MemoryUsage, KnowsTheMachine) {
  EXPECT_GT(available_memory_bytes(), 0u);
  EXPECT_GE(total_memory_bytes(), available_memory_bytes());
}

}  // namespace
}  // namespace nibble
