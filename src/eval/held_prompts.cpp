#include "eval/held_prompts.h"

#include <algorithm>

namespace nibble {

size_t HeldPrompts::take(ForwardPass& session, int slot, std::span<const int32_t> prompt) {
  const size_t own = static_cast<size_t>(slot), most = prompt.size() - 1;
  size_t from = own, best = 0;
  for (size_t i = 0; i <= tokens_.size(); ++i) {  // its own first: nothing is to be copied then
    const size_t s = i == 0 ? own : i - 1;
    const auto end = std::mismatch(prompt.begin(), prompt.end(), tokens_[s].begin(), tokens_[s].end()).first;
    const size_t common = std::min(most, static_cast<size_t>(end - prompt.begin()));
    if (common > best) from = s, best = common;
  }
  if (from != own) session.copy_cache(static_cast<int>(from), slot, static_cast<int>(best));
  put(slot, prompt.first(best));
  return best;
}

void HeldPrompts::put(int slot, std::span<const int32_t> tokens) {
  tokens_[static_cast<size_t>(slot)].assign(tokens.begin(), tokens.end());
}

}  // namespace nibble
