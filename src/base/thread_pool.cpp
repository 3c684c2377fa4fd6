#include "base/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace nibble {
namespace {

std::vector<int> allowed_processors() {
  std::vector<int> processors;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

constexpr auto kSpin = std::chrono::microseconds(50);

// Looks for done() for kSpin: most jobs end within it, and waking a sleeper costs more. Meanwhile prefetches.
template <typename Done>
bool spin_until(Done done, const char* data = nullptr, size_t bytes = 0) {
  constexpr size_t kLine = 64, kLines = 8;  // lines between two looks
  for (size_t at = 0; at < bytes; at += kLine * kLines) {
    if (done()) return true;
    for (size_t i = 0; i < kLines; ++i) __builtin_prefetch(data + at + i * kLine, 0, 2);
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int n_threads, bool pin)
    : size_(n_threads), prefetch_(static_cast<size_t>(std::max(n_threads, 1))) {
  NIBBLE_CHECK(n_threads >= 1);
  const std::vector<int> processors = allowed_processors();
  n_running_ = processors.empty() ? n_threads : std::min(n_threads, static_cast<int>(processors.size()));
  for (int i = 1; i < n_running_; ++i) workers_.emplace_back([this, i] { work(i); });
  if (!pin) return;
  for (int i = 0; i < n_running_ && !processors.empty(); ++i) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processors[static_cast<size_t>(i)], &one);
    const pthread_t thread = i == 0 ? ::pthread_self() : workers_[static_cast<size_t>(i) - 1].native_handle();
    ::pthread_setaffinity_np(thread, sizeof one, &one);
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::execute(int thread) {
  while (thread < size_) {
    try {
      function_(argument_, thread);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    if (n_running_ == size_) return;
    thread = next_.fetch_add(1, std::memory_order_relaxed);
  }
}

void ThreadPool::run_erased(Erased function, void* argument) {
  if (size_ == 1) return function(argument, 0);
  NIBBLE_CHECK(running_.load() == 0);
  function_ = function;
  argument_ = argument;
  error_ = nullptr;
  next_.store(n_running_, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  // A worker counts itself as a sleeper before it looks at the generation for the last time, so either it
  // sees the new one or it is seen here.
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  execute(0);
  const auto all_done = [&] { return running_.load(std::memory_order_seq_cst) == 0; };
  if (!spin_until(all_done)) {
    std::unique_lock lock(mutex_);
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    done_.wait(lock, all_done);
    caller_sleeps_.store(false, std::memory_order_relaxed);
  }
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  Prefetch prefetch;
  for (;;) {
    const auto changed = [&] { return generation_.load(std::memory_order_seq_cst) != seen; };
    if (!spin_until(changed, prefetch.data, prefetch.bytes)) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, changed);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    // Only now: after its last decrement of running_ the caller may write the next one.
    prefetch = prefetch_[static_cast<size_t>(thread)];
    execute(thread);
    if (running_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        caller_sleeps_.load(std::memory_order_seq_cst)) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

void ThreadPool::prefetch_while_idle(int thread, const void* data, size_t bytes) {
  NIBBLE_CHECK(running_.load() == 0);
  prefetch_[static_cast<size_t>(thread)] = {static_cast<const char*>(data), bytes};
}

int available_threads() { return std::max(1, static_cast<int>(allowed_processors().size())); }

}  // namespace nibble
