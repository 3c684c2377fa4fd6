#include "model/forward_pass.h"

#include <algorithm>
#include <chrono>

#include "model/cuda_device.h"
#include "model/session.h"

namespace nibble {

void Batch::add(int slot, int start, std::span<const int32_t> ids) {
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  segments.push_back({slot, start, static_cast<int>(ids.size())});
}

void Batch::add_found(int slot, int start, int32_t id) {
  NIBBLE_CHECK(static_cast<size_t>(found) == tokens.size());
  add(slot, start, std::span(&id, 1));
  ++found;
}

ForwardPass::ForwardPass(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)), options_(options) {
  if (options.slots < 1 || options.context < 1 || options.batch_tokens < 1)
    fail("a session needs at least one slot, one position and one token a batch");
  if (options.context > model_->config.max_context)
    fail("{}: {} tokens of context asked for, the model allows {}", model_->name(), options.context,
         model_->config.max_context);
}

void ForwardPass::check_batch(const Batch& batch) const {
  const ModelConfig& c = model_->config;
  if (batch.tokens.empty() || batch.tokens.size() > static_cast<size_t>(options_.batch_tokens))
    fail("{}: a batch of {} tokens, the session takes 1 to {}", model_->name(), batch.tokens.size(),
         options_.batch_tokens);
  for (const int32_t id : batch.tokens) {
    if (id < 0 || id >= c.vocab_size)
      fail("{}: token id {} is outside the vocabulary of {}", model_->name(), id, c.vocab_size);
  }
  size_t total = 0;
  for (const Segment& s : batch.segments) {
    if (s.slot < 0 || s.slot >= options_.slots || s.start < 0 || s.count < 1 ||
        s.count > options_.context - s.start)
      fail("{}: positions {} to {} of slot {} are outside {} slots of {} tokens", model_->name(), s.start,
           s.start + s.count, s.slot, options_.slots, options_.context);
    total += static_cast<size_t>(s.count);
  }
  NIBBLE_CHECK(total == batch.tokens.size());
}

int64_t ForwardPass::logit_rows_at_once() const {
  constexpr int64_t kFloats = int64_t{4} << 20;
  return std::clamp<int64_t>(kFloats / model_->config.vocab_size, 1, std::min(options_.batch_tokens, 128));
}

void ForwardPass::greedy(std::span<const Continuation> sequences, int steps, int32_t* out, double* step_ms) {
  using Clock = std::chrono::steady_clock;
  Batch batch;
  std::vector<size_t> rows(sequences.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = i;
  auto before = Clock::now();
  for (int step = 0; step < steps; ++step) {
    const int32_t* tokens = out + static_cast<size_t>(step) * rows.size() - rows.size();
    batch.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      const int32_t token = step == 0 ? sequences[i].token : tokens[i];
      batch.add_found(sequences[i].slot, sequences[i].position + step, token);
    }
    forward(batch);
    argmax(rows, {out + static_cast<size_t>(step) * rows.size(), rows.size()});
    const auto now = Clock::now();
    if (step_ms) step_ms[step] = std::chrono::duration<double, std::milli>(now - before).count();
    before = now;
  }
}

std::string device_name(Device device) {
  return device == Device::kCuda ? "cuda/" + cuda_device_name() : fmt::format("cpu/{}", kernels().name);
}

uint64_t gpu_bytes_in_use(Device device) {
  if (device != Device::kCuda) return 0;
  const GpuMemory memory = gpu_memory();
  return memory.process > 0 ? memory.process : memory.used;
}

int default_batch_tokens(Device device) { return device == Device::kCuda ? 2048 : 256; }

std::unique_ptr<ForwardPass> open_forward_pass(std::shared_ptr<const Model> model,
                                               const SessionOptions& options, ThreadPool& pool) {
  if (options.precision.device == Device::kCuda) return open_cuda_session(std::move(model), options);
  return std::make_unique<Session>(std::move(model), options, pool);
}

}  // namespace nibble
