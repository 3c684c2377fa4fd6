// Owned memory aligned to a cache line, for activations, caches and packed weights.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#include "base/error.h"

namespace nibble {

inline constexpr size_t kAlignment = 64;

// An array of trivially copyable T, 64-byte aligned, zeroed. Moves, never copies.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t n) : size_(n) {
    if (n == 0) return;
    if (n > SIZE_MAX / 2 / sizeof(T)) fail("cannot allocate {} elements of {} bytes", n, sizeof(T));
    const size_t bytes = (n * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    data_ = static_cast<T*>(std::aligned_alloc(kAlignment, bytes));
    if (!data_) fail("out of memory: {} bytes asked for", bytes);
    for (size_t i = 0; i < n; ++i) new (data_ + i) T{};
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    if (this != &other) {
      std::free(data_);
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  ~AlignedBuffer() { std::free(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nibble
