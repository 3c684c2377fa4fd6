// How GGUF writes values (ggml/docs/gguf.md): the types of metadata, and numbers that lie at any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nibble::gguf {

enum : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

template <typename T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace nibble::gguf
