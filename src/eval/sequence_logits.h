// All logits of one sequence (`nibble logits`).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "eval/language_model.h"
#include "model/forward_pass.h"

namespace nibble {

// [tokens, vocab]: row i is what the model expects after token i. Throws Error when there is no token
// or the model's context is shorter.
AlignedBuffer<float> sequence_logits(std::shared_ptr<const Model> model, std::span<const int32_t> tokens,
                                     const Precision& precision, ThreadPool& pool,
                                     const ProgressFn& progress = {});

}  // namespace nibble
