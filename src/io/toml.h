// TOML with errors that name the file and the line.
#pragma once

#include <toml++/toml.h>

#include <string_view>

namespace nibble {

// Parses text; `where` (a file's name) stands in the error, a UsageError: such files are written by hand.
// Keys of more than 32 parts are refused, since toml++ (3.2) goes down a level of the stack for each.
toml::table parse_toml(std::string_view text, std::string_view where);

}  // namespace nibble
