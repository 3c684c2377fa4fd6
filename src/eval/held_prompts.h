// Which tokens the slots of a session hold, so that what prompts have in common runs once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/forward_pass.h"

namespace nibble {

class HeldPrompts {
 public:
  explicit HeldPrompts(int slots) : tokens_(static_cast<size_t>(slots)) {}
  // How many of the prompt's first tokens, all but the last at most, `slot` has in its cache after this call:
  // its own or copied from the slot that has most of them. What else it had counts as overwritten.
  size_t take(ForwardPass& session, int slot, std::span<const int32_t> prompt);
  // The slot's cache now has these tokens at positions 0, 1, …
  void put(int slot, std::span<const int32_t> tokens);

 private:
  std::vector<std::vector<int32_t>> tokens_;  // of each slot
};

}  // namespace nibble
