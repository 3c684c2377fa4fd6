#include "base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace nibble {

FileLock::FileLock(const std::filesystem::path& path, double patience, std::string_view busy)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0) fail("{}: cannot write: {}", path.string(), std::strerror(errno));
  constexpr double kPause = 0.02;
  int locked = ::flock(fd_, LOCK_EX | LOCK_NB);
  for (double waited = 0; locked != 0 && errno == EWOULDBLOCK && waited < patience; waited += kPause) {
    ::usleep(static_cast<useconds_t>(kPause * 1e6));
    locked = ::flock(fd_, LOCK_EX | LOCK_NB);
  }
  if (locked == 0) return;
  const int error = errno;
  ::close(fd_);
  if (error != EWOULDBLOCK) fail("{}: cannot lock: {}", path.string(), std::strerror(error));
  fail("{}", busy);
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace nibble
