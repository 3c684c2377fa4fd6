#include "eval/stream.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/stopwatch.h"

namespace nibble {
namespace {

// The bytes at the end of `text` that begin a UTF-8 character and do not finish it.
size_t unfinished(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0u) == 0x80u) continue;
    const size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace

StreamResult stream_text(std::shared_ptr<const Model> model, const Tokenizer& tokenizer,
                         std::span<const int32_t> prompt, int max_tokens, const SamplingOptions& sampling,
                         const Precision& precision, ThreadPool& pool,
                         const std::function<void(std::string_view)>& on_text) {
  if (prompt.empty()) throw UsageError("the prompt has no tokens");
  if (max_tokens < 1) throw UsageError(fmt::format("max-tokens {}: at least 1", max_tokens));
  const size_t context = prompt.size() + static_cast<size_t>(max_tokens);
  if (context > static_cast<size_t>(model->config.max_context))
    fail("{}: {} tokens of prompt and {} to come exceed the context of {}", model->name(), prompt.size(),
         max_tokens, model->config.max_context);
  constexpr size_t kPiece = 512;
  const ModelConfig& config = model->config;
  Sampler sampler(sampling);
  const auto session = open_forward_pass(model,
                                         {.slots = 1,
                                          .context = static_cast<int>(context),
                                          .batch_tokens = static_cast<int>(std::min(kPiece, context)),
                                          .precision = precision},
                                         pool);
  AlignedBuffer<float> logits(static_cast<size_t>(config.vocab_size));
  Batch batch;
  const auto feed = [&](size_t start, std::span<const int32_t> ids) {
    batch.clear();
    batch.add(0, static_cast<int>(start), ids);
    session->forward(batch);
  };
  const auto next = [&](size_t rows) {
    session->row_logits(rows - 1, 1, logits.data());
    return sampler.next({logits.data(), logits.size()});
  };

  StreamResult result;
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  result.cache_bytes = session->cache_bytes();
  result.workspace_bytes = session->workspace_bytes() + logits.bytes();
  Stopwatch watch;
  size_t rows = 0;
  for (size_t at = 0; at < prompt.size(); at += rows) {
    rows = std::min(kPiece, prompt.size() - at);
    feed(at, prompt.subspan(at, rows));
    on_text({});
  }
  int32_t token = next(rows);
  result.prompt_seconds = watch.seconds();
  watch = {};
  std::string pending;
  for (size_t position = prompt.size();; ++position) {
    if (std::find(config.end_tokens.begin(), config.end_tokens.end(), token) != config.end_tokens.end()) {
      result.finish = FinishReason::kEndToken;
      break;
    }
    ++result.output_tokens;
    if (token < tokenizer.vocab_size() && !tokenizer.is_special(token))
      pending += tokenizer.token_bytes(token);
    const size_t whole = pending.size() - unfinished(pending);
    on_text(std::string_view(pending).substr(0, whole));
    pending.erase(0, whole);
    if (result.output_tokens == max_tokens) break;
    feed(position, std::span(&token, 1));
    token = next(1);
  }
  if (!pending.empty()) on_text(pending);
  result.output_seconds = watch.seconds();
  return result;
}

}  // namespace nibble
