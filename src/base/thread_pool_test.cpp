#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <numeric>
#include <stdexcept>

namespace nibble {
namespace {

TEST(ThreadPool, EveryThreadRunsEveryJobOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    std::vector<int> counts(static_cast<size_t>(threads));
    for (int job = 0; job < 2000; ++job) pool.run([&](int thread) { ++counts[static_cast<size_t>(thread)]; });
    EXPECT_EQ(counts, std::vector<int>(static_cast<size_t>(threads), 2000));
  }
}

// Long enough pauses that workers and caller go to sleep, in every order.
TEST(ThreadPool, SleepersWakeUp) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  for (int job = 0; job < 60; ++job) {
    if (job % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pool.run([&](int thread) {
      if (thread == job % 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++sum;
    });
  }
  EXPECT_EQ(sum, 180);
}

TEST(ThreadPool, PiecesCoverTheRangeOnce) {
  ThreadPool pool(3);
  for (const size_t n : {0, 1, 7, 64, 1000}) {
    for (const size_t grain : {1, 16, 100}) {
      std::vector<std::atomic<int>> seen(n);
      pool.parallel_for(n, grain, [&](size_t begin, size_t end, int) {
        EXPECT_EQ(begin % grain, 0u);
        for (size_t i = begin; i < end; ++i) ++seen[i];
      });
      EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& count) { return count == 1; }));
    }
    std::vector<std::atomic<int>> seen(n);
    pool.parallel_each(n, [&](size_t i, int) { ++seen[i]; });
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& count) { return count == 1; }));
  }
}

// Fewer threads run then, but the shares are the same, and each is done once.
TEST(ThreadPool, MoreThreadsThanProcessors) {
  std::thread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
    ASSERT_EQ(0, ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one));
    ThreadPool pool(5);
    ASSERT_EQ(pool.size(), 5);
    for (int job = 0; job < 100; ++job) {
      std::vector<int> counts(5);
      pool.run([&](int thread) { ++counts[static_cast<size_t>(thread)]; });
      EXPECT_EQ(counts, std::vector<int>(5, 1));
      std::vector<size_t> begins(5);
      pool.parallel_for(50, 1, [&](size_t begin, size_t end, int thread) {
        EXPECT_EQ(end, begin + 10);
        begins[static_cast<size_t>(thread)] = begin;
      });
      EXPECT_EQ(begins, (std::vector<size_t>{0, 10, 20, 30, 40}));
      std::vector<int> seen(23);
      pool.parallel_each(seen.size(), [&](size_t i, int) { ++seen[i]; });
      EXPECT_EQ(seen, std::vector<int>(23, 1));
    }
    EXPECT_THROW(pool.run([](int thread) {
      if (thread == 4) throw std::runtime_error("no");
    }),
                 std::runtime_error);
  }).join();
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  ThreadPool pool(2);
  for (const int thrower : {0, 1}) {
    EXPECT_THROW(pool.run([&](int thread) {
      if (thread == thrower) throw std::runtime_error("no");
    }),
                 std::runtime_error);
    int ran = 0;
    pool.run([&](int thread) {
      if (thread == 0) ++ran;
    });
    EXPECT_EQ(ran, 1);
  }
}

}  // namespace
}  // namespace nibble
