#pragma once

namespace nibble {

// How deep the normalizers, pre-tokenizers and post-processors of a tokenizer.json may hold one another.
inline constexpr int kMaxNesting = 8;

}  // namespace nibble
