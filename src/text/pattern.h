// Split patterns of tokenizer.json are written for Oniguruma (Hugging Face's engine). This turns
// one into the PCRE2 pattern that matches the same text, or refuses it.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// Where the two differ: \s (PCRE2's has U+180E), \h and \v, \u0041, and what stands for something
// else or cannot be said in PCRE2 (\w, \b, sets inside sets, &&, options but i, {n}? and {n,m}+).
// Throws Error naming the construct that is not supported. Compile with UTF, UCP and MULTILINE.
std::string pcre2_pattern(std::string_view oniguruma, std::string_view where);

}  // namespace nibble
