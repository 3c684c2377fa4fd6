// GPT-2's alphabet: each byte spelled as one printable character (openai/gpt-2, bytes_to_unicode).
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// The bytes that `spelled` stands for; false when a character is outside the alphabet.
bool bytes_of_spelling(std::string_view spelled, std::string& bytes);

}  // namespace nibble
