// How vocabularies spell bytes: GPT-2's alphabet, each byte one printable character (openai/gpt-2,
// bytes_to_unicode), and SentencePiece's <0x0A>.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// The bytes that `spelled` stands for; false when a character is outside the alphabet.
bool bytes_of_spelling(std::string_view spelled, std::string& bytes);

// The byte that `<0x0A>` stands for; -1 when it is spelled otherwise.
int byte_of_spelling(std::string_view spelled);
std::string spelling_of_byte(int byte);  // in capital letters

}  // namespace nibble
