// Whether untrusted bytes are UTF-8.
#pragma once

#include <string_view>

namespace nibble {

// Unicode's table 3-7: no overlong forms, no surrogates, nothing past U+10FFFF.
bool is_valid_utf8(std::string_view text);

}  // namespace nibble
