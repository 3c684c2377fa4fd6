// How a stream of tokens is cut into windows to be scored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nibble {

// Perplexity (GPTQ's rule): disjoint windows of `window` ≥ 2 tokens from the start; a tail that
// fills none is left out, unless the whole stream is shorter than one. At most `limit` (0: all).
// The start token, where there is one, stands in the stream once, at its start.
std::vector<std::vector<int32_t>> cut_windows(std::span<const int32_t> stream, int window, int64_t limit);

// `nibble compare`: `stream` is the text without a start token. With start_token ≥ 0 it takes the
// first place of every window, so that a window is the start token and window − 1 tokens of the
// stream; else it is `window` of them. Disjoint, full windows only, at most `limit` (0: all).
// window ≥ 4. Throws Error when the stream fills none.
std::vector<std::vector<int32_t>> comparison_windows(std::span<const int32_t> stream, int window,
                                                     int64_t limit, int32_t start_token);

// The positions of such a window whose predictions are scored: window/2 … window − 2, as
// [first, last). The logits at position i predict token i + 1.
std::pair<size_t, size_t> scored_positions(int window);

}  // namespace nibble
