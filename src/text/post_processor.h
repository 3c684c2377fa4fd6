// The post-processor of tokenizer.json: tokens put before and after a text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibble {

class PostProcessor {
 public:
  // ByteLevel (which moves offsets only), TemplateProcessing, Sequence; `node` may be null.
  // Throws Error for others by name, and for ids that are not below vocab_size.
  static PostProcessor from_json(const Json& node, int32_t vocab_size, std::string_view where);

  const std::vector<int32_t>& before() const { return before_; }
  const std::vector<int32_t>& after() const { return after_; }

 private:
  void append(const Json& node, int32_t vocab_size, std::string_view where, int depth);
  void append_template(const Json& node, int32_t vocab_size, std::string_view where);

  std::vector<int32_t> before_, after_;
};

}  // namespace nibble
