// `nibble compare`: models over the same text, position by position.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "eval/compare.h"
#include "eval/language_model.h"
#include "model/forward_pass.h"

namespace nibble {

struct CompareOptions {
  int window = 0;  // tokens, of which positions window/2 … window−2 are scored; 0: 512, or the shorter
                   // context of the two models
  int64_t windows = 0;  // 0: all that the text fills
  int batch_tokens = 512;
  Precision precision = {};
  std::optional<Precision> base_precision = {};  // the base's own; none: the same
};

// All models see the same tokens (the base's tokenizer; Error when a quantized model's vocabulary has
// another size, or a window is longer than one of them allows). Logits of all are kept a few positions at
// a time. Base and quant may be one model. A result for each of `quants`, held against the first of them too.
std::vector<Comparison> compare_models(std::shared_ptr<const Model> base,
                                       const std::vector<std::shared_ptr<const Model>>& quants,
                                       const Tokenizer& tokenizer, const std::string& text,
                                       const CompareOptions& options, ThreadPool& pool,
                                       const ProgressFn& progress);

}  // namespace nibble
