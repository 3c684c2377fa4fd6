// Files: whole reads, read-only mappings, and writes that either complete or leave nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// The whole file as bytes. Throws Error when it cannot be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 32);

// A file mapped read-only; its pages are shared with every process that maps it.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

  // Gives the memory of a part of bytes() back to the system; it is read again when touched.
  void release(std::span<const std::byte> part) const;

 private:
  MappedFile(std::filesystem::path path, const void* data, size_t size);
  std::filesystem::path path_;
  const void* data_;
  size_t size_;
};

// Writes to `path` + a temporary suffix; commit() syncs and renames. Without commit() the
// destructor removes the temporary file, so a reader never sees half a file.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);  // throws Error, for example when the disk is full
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

// With its parents, where it is not there. Throws Error when it cannot be made.
void make_directory(const std::filesystem::path& path);

void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace nibble
