// One sequence, generated while somebody reads along (`nibble generate`).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "eval/language_model.h"
#include "model/forward_pass.h"
#include "model/sampler.h"

namespace nibble {

struct StreamResult {
  int64_t prompt_tokens = 0, output_tokens = 0;
  FinishReason finish = FinishReason::kLength;
  double prompt_seconds = 0, output_seconds = 0;
  uint64_t cache_bytes = 0, workspace_bytes = 0;
};

// Feeds the prompt, then up to max_tokens tokens; on_text gets whole UTF-8 characters as they come, and
// may throw to cancel. Stops at the model's end tokens. Throws Error when prompt and answer exceed the
// context.
StreamResult stream_text(std::shared_ptr<const Model> model, const Tokenizer& tokenizer,
                         std::span<const int32_t> prompt, int max_tokens, const SamplingOptions& sampling,
                         const Precision& precision, ThreadPool& pool,
                         const std::function<void(std::string_view)>& on_text);

}  // namespace nibble
