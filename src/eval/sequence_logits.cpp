#include "eval/sequence_logits.h"

#include <algorithm>

namespace nibble {

AlignedBuffer<float> sequence_logits(std::shared_ptr<const Model> model, std::span<const int32_t> tokens,
                                     const Precision& precision, ThreadPool& pool,
                                     const ProgressFn& progress) {
  constexpr size_t kPiece = 256;
  const ModelConfig& config = model->config;
  if (tokens.empty()) fail("{}: no tokens, so no logits", model->name());
  if (tokens.size() > static_cast<size_t>(config.max_context))
    fail("{}: {} tokens, the context is {}", model->name(), tokens.size(), config.max_context);
  const size_t vocab = static_cast<size_t>(config.vocab_size);
  const auto session = open_forward_pass(model,
                                         {.slots = 1,
                                          .context = static_cast<int>(tokens.size()),
                                          .batch_tokens = static_cast<int>(std::min(kPiece, tokens.size())),
                                          .precision = precision},
                                         pool);
  const size_t at_once = static_cast<size_t>(session->logit_rows_at_once());
  AlignedBuffer<float> logits(tokens.size() * vocab);
  Batch batch;
  for (size_t at = 0; at < tokens.size();) {
    const size_t count = std::min(kPiece, tokens.size() - at);
    batch.clear();
    batch.add(0, static_cast<int>(at), tokens.subspan(at, count));
    session->forward(batch);
    for (size_t row = 0; row < count; row += at_once)
      session->row_logits(row, std::min(at_once, count - row), logits.data() + (at + row) * vocab);
    at += count;
    if (progress) progress(at, tokens.size());
  }
  return logits;
}

}  // namespace nibble
