// Patterns over the names of modules, as quantization configurations and plans hold them: Perl's regular
// expressions (PCRE2), bounded in size, steps and memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace nibble {

class NamePattern {
 public:
  enum class At { kStart, kAnywhere };  // of the name: Python's re.match, re.search
  // Throws Error when it is no pattern; `where` stands in errors.
  NamePattern(std::string_view pattern, std::string_view where, At at = At::kStart);
  bool matches(std::string_view name) const;  // throws Error past its limits

 private:
  std::string where_;
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace nibble
