#include "io/utf8.h"

#include <cstddef>
#include <cstdint>

namespace nibble {

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[i]);
    const size_t size = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
    if (size == 0 || size > text.size() - i) return false;
    for (size_t j = 1; j < size; ++j) {
      const uint8_t byte = static_cast<uint8_t>(text[i + j]);
      uint8_t lowest = 0x80, highest = 0xbf;
      if (j == 1 && lead == 0xe0) lowest = 0xa0;
      if (j == 1 && lead == 0xed) highest = 0x9f;
      if (j == 1 && lead == 0xf0) lowest = 0x90;
      if (j == 1 && lead == 0xf4) highest = 0x8f;
      if (byte < lowest || byte > highest) return false;
    }
    i += size;
  }
  return true;
}

}  // namespace nibble
