#include "base/memory_usage.h"

#include <gtest/gtest.h>

#include "base/aligned_buffer.h"

namespace nibble {
namespace {

TEST(MemoryUsage, SeesABufferComeAndGo) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer keeps freed memory for a while";
#endif
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
