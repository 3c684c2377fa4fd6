// One pool of worker threads for the whole process.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace nibble {

// Runs a function for every thread of the pool; the caller is thread 0. Whoever waits spins for about 50 µs,
// then sleeps. Of more threads than there are processors for this process only as many run, and who is done
// with its own share takes those of the others: two threads that take turns on a processor make every job
// wait for both. So how work is cut, and with it every result, follows size() and not the machine, and the
// shares of a job must not wait for each other. Not reentrant: a job must not start another job.
class ThreadPool {
 public:
  // pin: each thread stays on a processor of its own, as far as there are so many for this process.
  explicit ThreadPool(int n_threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // job(thread) for thread in [0, size()). Rethrows the first exception of any thread.
  template <typename Job>
  void run(Job&& job) {
    using Function = std::remove_reference_t<Job>;
    run_erased([](void* f, int thread) { (*static_cast<Function*>(f))(thread); }, &job);
  }

  // body(begin, end, thread) over contiguous pieces of [0, n), each a multiple of `grain` but the
  // last. The pieces depend only on n, grain and size().
  template <typename Body>
  void parallel_for(size_t n, size_t grain, Body&& body) {
    const size_t chunks = (n + grain - 1) / grain;
    const size_t threads = std::min<size_t>(static_cast<size_t>(size()), chunks);
    if (threads <= 1) {
      if (n > 0) body(size_t{0}, n, 0);
      return;
    }
    run([&](int thread) {
      const size_t t = static_cast<size_t>(thread);
      if (t >= threads) return;
      const size_t begin = chunks * t / threads * grain;
      const size_t end = std::min(n, chunks * (t + 1) / threads * grain);
      if (begin < end) body(begin, end, thread);
    });
  }

  // body(index, thread) for index in [0, n), for uneven work: each thread begins with the index of its own
  // number, the rest is handed out one at a time.
  template <typename Body>
  void parallel_each(size_t n, Body&& body) {
    std::atomic<size_t> next{static_cast<size_t>(size())};
    run([&](int thread) {
      for (size_t i = static_cast<size_t>(thread); i < n; i = next.fetch_add(1, std::memory_order_relaxed))
        body(i, thread);
    });
  }

  // What `thread` will read first in the job after the next: it brings these bytes into its second-level
  // cache while it waits. A hint: nothing is read, so the memory may be gone by then. Not during a job.
  void prefetch_while_idle(int thread, const void* data, size_t bytes);

 private:
  using Erased = void (*)(void*, int);
  void run_erased(Erased function, void* argument);
  void work(int thread);
  void execute(int thread);

  struct alignas(64) Prefetch {
    const char* data = nullptr;
    size_t bytes = 0;
  };

  const int size_;
  int n_running_ = 1;  // threads that there are, the caller among them
  std::vector<std::thread> workers_;
  std::vector<Prefetch> prefetch_;  // [size()], written between jobs, read within them
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> next_{0};  // whose share is next, where fewer run than asked for
  std::atomic<int> running_{0};
  std::atomic<int> sleepers_{0};  // workers that must be notified
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  Erased function_ = nullptr;
  void* argument_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::exception_ptr error_;
};

// The number of processors this process may run on.
int available_threads();

}  // namespace nibble
