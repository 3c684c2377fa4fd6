// The one exception of the library, and the check for bugs.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace nibble {

// Bad input, a failed system call, a request that cannot be met. The message is one line
// that names the file or tensor, what was expected, what was found, and what helps.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Wrong use of the command line or of a study file; the program exits with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void check_failed(const char* expression, const char* file, int line);

}  // namespace nibble

// For bugs, not for bad input. Stays in release builds.
#define NIBBLE_CHECK(expression) \
  ((expression) ? void(0) : ::nibble::check_failed(#expression, __FILE__, __LINE__))
