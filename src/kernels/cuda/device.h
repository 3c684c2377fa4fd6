// The card, its memory, a queue of work for it and recorded work: what the rest of the program needs of
// CUDA's runtime. No CUDA header is included here. Everything throws Error when the driver reports one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace nibble::cuda {

// Why no card can be used, in one line; empty where one can. Cards older than compute capability 8.0 cannot.
std::string problem();

struct DeviceFacts {
  std::string name;
  int multiprocessors = 0;
  int major = 0;                            // of the compute capability
  int shared_bytes_per_block = 0;           // the most that a block may ask for
  int shared_bytes_per_multiprocessor = 0;  // shared by the blocks that run there
};
const DeviceFacts& device();  // fails with problem() where there is one

struct MemoryFacts {
  uint64_t used = 0, total = 0;  // of the card
  uint64_t process = 0;          // of this process, by NVML; 0 where NVML does not tell
};
MemoryFacts memory();

// Bytes on the card, zeroed.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory that the card can copy to and from while the program goes on.
class PinnedMemory {
 public:
  explicit PinnedMemory(size_t bytes);
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Recorded work.
class Graph {
 public:
  Graph() = default;
  explicit Graph(void* executable) : executable_(executable) {}
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }
  ~Graph();
  void* executable() const { return executable_; }

 private:
  void* executable_ = nullptr;  // cudaGraphExec_t
};

// Work in order. A kernel may begin before the one in front of it has ended where it says so (overlap()).
class Queue {
 public:
  Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue();

  void* stream() const { return stream_; }  // cudaStream_t
  void to_device(void* to, const void* from, size_t bytes);
  void to_host(void* to, const void* from, size_t bytes);
  // rows of `row_bytes` from the host, `to_stride` bytes apart on the card.
  void rows_to_device(void* to, size_t to_stride, const void* from, size_t row_bytes, size_t rows);
  // rows of `row_bytes`, `stride` bytes apart in both, on the card.
  void copy_rows(void* to, const void* from, size_t stride, size_t row_bytes, size_t rows);
  void wait();  // until all of it is done

  void begin_recording();
  Graph end_recording();
  void run(const Graph& graph);

 private:
  void* stream_ = nullptr;
};

// Bytes a second that a copy on the card reads and writes, together; the best of several.
double measure_copy();

}  // namespace nibble::cuda
