// Patterns over the names of modules, as quantization configurations hold them (Python's re.match: from the
// start).
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace nibble {

class NamePattern {
 public:
  NamePattern(std::string_view pattern, std::string_view where);  // throws Error when it is no pattern
  bool matches(std::string_view name) const;  // at the start of the name; throws Error past its limits

 private:
  std::string where_;
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace nibble
