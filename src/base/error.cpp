#include "base/error.h"

namespace nibble {

void check_failed(const char* expression, const char* file, int line) {
  throw std::logic_error(
      fmt::format("internal error: {} is false at {}:{}; please report this", expression, file, line));
}

}  // namespace nibble
