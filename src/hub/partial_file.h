// A file that grows by pieces over several runs, with the hash of what is in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>

#include "base/sha256.h"

namespace nibble {

class PartialFile {
 public:
  // Goes on with what is there, but at most its first `keep` bytes. Throws Error when it cannot be opened.
  explicit PartialFile(std::filesystem::path path, uint64_t keep = std::numeric_limits<uint64_t>::max());
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  uint64_t size() const { return size_; }
  std::string sha256() const { return hash_.hex(); }

  void append(std::string_view piece);  // throws Error, for example when the disk is full; what fits is kept
  void clear();
  void become(const std::filesystem::path& final_name);  // syncs and renames

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  Sha256 hash_;
};

}  // namespace nibble
