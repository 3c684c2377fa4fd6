// An advisory lock on a file, held until the object or the process is gone.
#pragma once

#include <filesystem>
#include <string_view>

namespace nibble {

class FileLock {
 public:
  // Makes the file where it is not there. Tries for `patience` seconds; throws Error with `busy` as its
  // message where somebody else still holds it then.
  FileLock(const std::filesystem::path& path, double patience, std::string_view busy);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_;
};

}  // namespace nibble
