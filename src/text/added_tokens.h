// Tokens that are found in text as they are written, before anything else looks at it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace nibble {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // looked for in normalized text, else in the raw text
  bool special = false;      // left out by decode when asked
};

// The "added_tokens" array; may be null.
std::vector<AddedToken> added_tokens_from_json(const Json& node, std::string_view where);

// Finds tokens in text, leftmost first, the longest of those that begin at one place.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() : nodes_(1) {}
  void add(std::string_view pattern, const AddedToken& token);  // the first of equal patterns stays

  // Calls on_text(part) for what lies between tokens, never for an empty part, and on_token(id).
  template <typename OnText, typename OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    size_t done = 0, from = 0;
    Found found;
    while (find(text, from, done, found)) {
      if (found.begin > done) on_text(text.substr(done, found.begin - done));
      on_token(found.id);
      done = found.end;
      from = found.from;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  struct Rule {
    int32_t id;
    bool single_word, lstrip, rstrip;
  };
  struct Node {                                                // of a trie over bytes
    std::vector<std::pair<unsigned char, uint32_t>> children;  // sorted by byte
    int32_t rule = -1;                                         // of the pattern that ends here
  };
  struct Found {
    size_t begin, end;  // with the white space it takes along
    size_t from;        // where to look on
    int32_t id;
  };
  bool find(std::string_view text, size_t from, size_t done, Found& found) const;
  uint32_t child_of(uint32_t node, unsigned char byte) const;  // 0: none

  std::vector<Node> nodes_;
  std::vector<Rule> rules_;
};

}  // namespace nibble
