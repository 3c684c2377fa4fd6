#include "hub/partial_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"

namespace nibble {

namespace fs = std::filesystem;

PartialFile::PartialFile(fs::path path, uint64_t keep) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("{}: {}", path_.string(), std::strerror(errno));
  try {
    std::vector<std::byte> buffer(size_t{1} << 20);
    while (size_ < keep) {
      const ssize_t n = ::read(fd_, buffer.data(), std::min<uint64_t>(buffer.size(), keep - size_));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("{}: {}", path_.string(), std::strerror(errno));
      if (n == 0) break;
      hash_.update(std::span(buffer).first(static_cast<size_t>(n)));
      size_ += static_cast<uint64_t>(n);
    }
    if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0)
      fail("{}: {}", path_.string(), std::strerror(errno));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

PartialFile::~PartialFile() { ::close(fd_); }

void PartialFile::append(std::string_view piece) {
  for (size_t done = 0; done < piece.size();) {
    const ssize_t n = ::write(fd_, piece.data() + done, piece.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      fail("{}: {}; {} bytes of it are kept, make room and the same command goes on", path_.string(),
           std::strerror(n < 0 ? errno : ENOSPC), size_);
    hash_.update(piece.substr(done, static_cast<size_t>(n)));
    done += static_cast<size_t>(n);
    size_ += static_cast<uint64_t>(n);
  }
}

void PartialFile::clear() {
  if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0)
    fail("{}: {}", path_.string(), std::strerror(errno));
  hash_ = {};
  size_ = 0;
}

void PartialFile::become(const fs::path& final_name) {
  if (::fsync(fd_) != 0) fail("{}: {}", path_.string(), std::strerror(errno));
  std::error_code error;
  fs::rename(path_, final_name, error);
  if (error) fail("{}: {}", final_name.string(), error.message());
  path_ = final_name;
}

}  // namespace nibble
