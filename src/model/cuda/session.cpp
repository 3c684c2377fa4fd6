#include "model/cuda/session.h"

#include <algorithm>

#include "base/error.h"
#include "model/cuda_device.h"
#include "model/rope.h"

namespace nibble {
namespace {

// Bytes of weights that the projections and o ask for ahead, while memory has little to do.
constexpr int64_t kAheadOfAttention = int64_t{12} << 20;
constexpr int64_t kAheadOfMlp = int64_t{20} << 20;
constexpr size_t kLogitFloats = size_t{16} << 20;

cuda::CacheKind kind_of(CacheType type) {
  return type == CacheType::kF32   ? cuda::CacheKind::kF32
         : type == CacheType::kF16 ? cuda::CacheKind::kF16
                                   : cuda::CacheKind::kI8;
}

size_t cached_bytes(cuda::CacheKind kind) {
  return kind == cuda::CacheKind::kF32 ? 4 : kind == cuda::CacheKind::kF16 ? 2 : 1;
}

}  // namespace

CudaSession::CudaSession(std::shared_ptr<const Model> model, const SessionOptions& options)
    : ForwardPass(std::move(model), options),
      weights_(CudaWeights::of(model_)),
      parts_(options.precision.bf16 && options.precision.int8 ? 1 : cuda::kMaxParts),
      rows_of_one_kernel_(rows_of_one_kernel(model_->config)),
      cache_kind_(kind_of(options.precision.cache)),
      host_batch_(static_cast<size_t>(options.batch_tokens) * 3 * sizeof(int32_t)),
      host_loop_(kLoopBytes) {
  allocate();
  fill_rope();
  queue_.wait();
}

void CudaSession::allocate() {
  const ModelConfig& c = model_->config;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  const size_t rows = size(options_.batch_tokens), parts = size(parts_);
  heads_ = {c.n_heads, c.n_kv_heads, c.head_dim, c.rope_dims, nullptr};
  ld_hidden_ = cuda::input_stride(c.hidden_size);
  const int64_t query = cuda::input_stride(c.query_size()), inner = cuda::input_stride(c.intermediate_size);
  const bool joint = weights_->blocks.front().joint();
  ld_attended_ = joint ? query + inner : query;
  ld_inner_ = joint ? query + inner : inner;
  few_ = std::min({options_.batch_tokens, options_.slots, cuda::kMaxColumns});

  const size_t positions =
      size(c.n_layers) * size(options_.slots) * size(c.n_kv_heads) * size(options_.context);
  const size_t cached = positions * size(c.head_dim) * cached_bytes(cache_kind_);
  keys_ = cuda::DeviceMemory(cached);
  values_ = cuda::DeviceMemory(cached);
  if (cache_kind_ == cuda::CacheKind::kI8) {
    key_scales_ = cuda::DeviceMemory(positions * sizeof(float));
    value_scales_ = cuda::DeviceMemory(positions * sizeof(float));
  }
  h_ = cuda::DeviceMemory(rows * size(c.hidden_size) * sizeof(float));
  normed_ = cuda::DeviceMemory(rows * parts * size(ld_hidden_) * 2);
  o_inputs_ = cuda::DeviceMemory(rows * parts * size(query + inner) * 2);
  attended_ = o_inputs_.as<char>();
  inner_ = attended_ + (joint ? size(query) : rows * parts * size(query)) * 2;
  qkv_ = cuda::DeviceMemory(rows * size(c.query_size() + 2 * c.kv_size()) * sizeof(float));
  gate_up_ = cuda::DeviceMemory(rows * size(c.intermediate_size) * (c.has_gate() ? 2 : 1) * sizeof(float));
  logit_rows_ =
      static_cast<int>(std::clamp<size_t>(kLogitFloats / size(c.vocab_size), 1, std::min<size_t>(rows, 128)));
  logit_rows_ = std::max(logit_rows_, few_);
  logits_ = cuda::DeviceMemory(size(logit_rows_) * size(c.vocab_size) * sizeof(float));
  size_t scratch = cuda::Linears::scratch_bytes(weights_->head, logit_rows_, parts_);
  for (const CudaBlock& b : weights_->blocks) {
    for (const cuda::Weight* w : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      if (w->n > 0)
        scratch = std::max(scratch, cuda::Linears::scratch_bytes(*w, options_.batch_tokens, parts_));
    }
  }
  scratch_ = cuda::DeviceMemory(scratch);
  partial_ = cuda::DeviceMemory(cuda::attention_scratch(heads_, few_, kMaxSplits));
  batch_ = cuda::DeviceMemory(rows * 3 * sizeof(int32_t));
  loop_ = cuda::DeviceMemory(kLoopBytes);
  keys_of_best_ = cuda::DeviceMemory(size(logit_rows_) * sizeof(uint64_t));
  best_ = cuda::DeviceMemory(size(logit_rows_) * sizeof(int32_t));
  questions_ = cuda::DeviceMemory(kMaxQuestions * sizeof(cuda::Question));
  answers_ = cuda::DeviceMemory(kMaxQuestions * sizeof(cuda::Answer));
  for (const auto& [to, from] :
       {std::pair{&device_rows_, batch_.as<int32_t>()}, {&host_rows_, host_batch_.as<int32_t>()}})
    *to = {from, from + rows, from + 2 * rows};
}

void CudaSession::fill_rope() {
  const std::vector<float> table = rope_table(*model_, options_.context);
  rope_ = cuda::DeviceMemory(std::max<size_t>(table.size() * sizeof(float), sizeof(float)));
  if (!table.empty()) queue_.to_device(rope_.as<void>(), table.data(), table.size() * sizeof(float));
  queue_.wait();
  heads_.rope = rope_.as<float>();
}

uint64_t CudaSession::cache_bytes() const {
  return keys_.bytes() + values_.bytes() + key_scales_.bytes() + value_scales_.bytes();
}

uint64_t CudaSession::workspace_bytes() const {
  uint64_t total = linears_.workspace_bytes();
  for (const cuda::DeviceMemory* m :
       {&rope_, &h_, &normed_, &o_inputs_, &qkv_, &gate_up_, &logits_, &scratch_, &partial_, &batch_, &loop_,
        &keys_of_best_, &questions_, &answers_, &best_})
    total += m->bytes();
  return total;
}

cuda::Cache CudaSession::cache_of(size_t layer) const {
  const ModelConfig& c = model_->config;
  const size_t positions = static_cast<size_t>(options_.slots) * static_cast<size_t>(c.n_kv_heads) *
                           static_cast<size_t>(options_.context);
  const size_t bytes = layer * positions * static_cast<size_t>(c.head_dim) * cached_bytes(cache_kind_);
  cuda::Cache cache{cache_kind_, keys_.as<char>() + bytes, values_.as<char>() + bytes, nullptr,
                    nullptr,     options_.context};
  if (cache_kind_ == cuda::CacheKind::kI8) {
    cache.key_scales = key_scales_.as<float>() + layer * positions;
    cache.value_scales = value_scales_.as<float>() + layer * positions;
  }
  return cache;
}

void CudaSession::linear(const cuda::Weight& weight, const void* x, int64_t ldx, int rows, bool add, float* y,
                         int64_t ldy, const cuda::Ahead& ahead) {
  linears_.run(queue_, weight, x, ldx, rows, parts_, add, y, ldy, scratch_.as<void>(), scratch_.bytes(),
               ahead);
}

cuda::Ahead CudaSession::ahead(const char* end, int64_t bytes) {
  const char* from = std::max(asked_, end);
  bytes = std::clamp<int64_t>(weights_->blocks.back().down_end - from, 0, bytes);
  asked_ = from + bytes;
  return {from, bytes};
}

void CudaSession::norm(const cuda::NormWeight& norm, const float* h, int rows) {
  cuda::norm(queue_, h, model_->config.hidden_size, norm, rows, parts_, normed_.as<void>(), ld_hidden_);
}

void CudaSession::attention_block(const CudaBlock& b, size_t layer, int rows, const Reach& reach, bool step) {
  const ModelConfig& c = model_->config;
  const int64_t ld = c.query_size() + 2 * c.kv_size();
  const bool fused = step && can_fuse_projections(b, rows);
  if (fused) {
    cuda::Gemv call = fused_projections(b, rows);
    if (!b.q.packed() || b.joint())
      call.ahead = ahead(b.joint() ? b.up_end : b.projections_end, kAheadOfAttention);
    cuda::gemv(queue_, call, true);
  } else {
    norm(b.attn_norm, h_.as<float>(), rows);
    float* y = qkv_.as<float>();
    for (const cuda::Weight* w : {&b.q, &b.k, &b.v}) {
      linear(*w, normed_.as<void>(), ld_hidden_, rows, false, y, ld);
      y += w->n;
    }
  }
  const cuda::Attention call = attention_call(layer, rows, reach, step);
  if (!call.rope) cuda::rope_and_store(queue_, qkv_.as<float>(), heads_, call.places, call.cache);
  cuda::attention(queue_, call, true);
  if (b.joint()) return;
  cuda::Ahead next;
  if (step && !b.o.packed()) next = ahead(b.o_end, kAheadOfMlp);
  linear(b.o, attended_, ld_attended_, rows, true, h_.as<float>(), c.hidden_size, next);
}

// In a parallel block normed_ still holds the norm, or fused_projections() has filled inner_.
void CudaSession::mlp_block(const CudaBlock& b, int rows, bool step) {
  const ModelConfig& c = model_->config;
  const int inner = c.intermediate_size;
  const bool parallel = c.parallel_block;
  const bool done = parallel && step && can_fuse_projections(b, rows);
  if (step && can_fuse_mlp(b, rows)) {
    cuda::gemv(queue_, fused_mlp(b, rows), true);
  } else if (!done) {
    if (!parallel) norm(b.mlp_norm, h_.as<float>(), rows);
    float* y = gate_up_.as<float>();
    if (c.has_gate()) {
      linear(b.gate, normed_.as<void>(), ld_hidden_, rows, false, y, 2 * inner);
      linear(b.up, normed_.as<void>(), ld_hidden_, rows, false, y + inner, 2 * inner);
      cuda::swiglu(queue_, y, inner, rows, parts_, inner_, ld_inner_);
    } else {
      linear(b.up, normed_.as<void>(), ld_hidden_, rows, false, y, inner);
      cuda::gelu(queue_, y, inner, rows, parts_, inner_, ld_inner_);
    }
  }
  linear(b.joint() ? b.o : b.down, b.joint() ? attended_ : inner_, ld_inner_, rows, true, h_.as<float>(),
         c.hidden_size);
}

void CudaSession::run_blocks(int rows, const Reach& reach, bool step, bool overlap) {
  cuda::embed(queue_, weights_->embedding, device_rows_.tokens, rows, h_.as<float>(), overlap);
  if (step) {
    if (const cuda::StepProgram* blocks = program(rows, reach, false)) return blocks->run(queue_, true);
  }
  asked_ = nullptr;
  for (size_t layer = 0; layer < weights_->blocks.size(); ++layer) {
    attention_block(weights_->blocks[layer], layer, rows, reach, step);
    mlp_block(weights_->blocks[layer], rows, step);
  }
}

void CudaSession::run_head(int first, int count, bool overlap) {
  const ModelConfig& c = model_->config;
  const float* h = h_.as<float>() + int64_t{first} * c.hidden_size;
  const cuda::Weight& head = weights_->head;
  if (head.has_gemv() && count <= cuda::gemv_rows(head.k, parts_))
    return cuda::gemv(queue_, head_call(h, count), overlap);
  norm(weights_->final_norm, h, count);
  linear(head, normed_.as<void>(), ld_hidden_, count, false, logits_.as<float>(), c.vocab_size);
}

void CudaSession::place_rows(std::span<const int32_t> tokens, std::span<const Segment> segments) {
  queue_.wait();  // the last batch's copy has been read
  size_t row = 0;
  for (const Segment& s : segments) {
    for (int i = 0; i < s.count; ++i, ++row) {
      host_rows_.tokens[row] = tokens[row];
      host_rows_.positions[row] = s.start + i;
      host_rows_.slots[row] = s.slot;
    }
  }
  queue_.to_device(batch_.as<void>(), host_batch_.as<void>(), batch_.bytes());
}

void CudaSession::forward(const Batch& batch) {
  check_batch(batch);
  place_rows(batch.tokens, batch.segments);
  rows_in_batch_ = static_cast<int>(batch.tokens.size());
  if (!is_step(batch)) return run_blocks(rows_in_batch_, {}, false);
  int last = 0;
  for (const Segment& s : batch.segments) last = std::max(last, s.start);
  queue_.run(step_graph({rows_in_batch_, reach_of(last, rows_in_batch_), 0}));
}

void CudaSession::copy_cache(int from, int to, int count) {
  NIBBLE_CHECK(from >= 0 && from < options_.slots && to >= 0 && to < options_.slots && from != to &&
               count >= 0 && count <= options_.context);
  if (count == 0) return;
  const ModelConfig& c = model_->config;
  const auto copy = [&](const cuda::DeviceMemory& memory, size_t position_bytes) {
    if (memory.bytes() == 0) return;
    // [layer][slot][kv head][context]
    const size_t head = static_cast<size_t>(options_.context) * position_bytes;
    const size_t slot = static_cast<size_t>(c.n_kv_heads) * head;
    for (int layer = 0; layer < c.n_layers; ++layer) {
      char* slots =
          memory.as<char>() + static_cast<size_t>(layer) * static_cast<size_t>(options_.slots) * slot;
      queue_.copy_rows(slots + static_cast<size_t>(to) * slot, slots + static_cast<size_t>(from) * slot, head,
                       static_cast<size_t>(count) * position_bytes, static_cast<size_t>(c.n_kv_heads));
    }
  };
  for (const cuda::DeviceMemory* memory : {&keys_, &values_})
    copy(*memory, static_cast<size_t>(c.head_dim) * cached_bytes(cache_kind_));
  for (const cuda::DeviceMemory* memory : {&key_scales_, &value_scales_}) copy(*memory, sizeof(float));
}

bool built_with_cuda() { return true; }
std::string cuda_problem() { return cuda::problem(); }
std::string cuda_device_name() { return cuda::device().name; }
GpuMemory gpu_memory() {
  const cuda::MemoryFacts facts = cuda::memory();
  return {facts.used, facts.total, facts.process};
}
double measure_gpu_copy() { return cuda::measure_copy(); }

std::unique_ptr<ForwardPass> open_cuda_session(std::shared_ptr<const Model> model,
                                               const SessionOptions& options) {
  return std::make_unique<CudaSession>(std::move(model), options);
}

}  // namespace nibble
