// The products and the attention of a block as calls of the card's operations: for kernels of their own, and
// as parts of a step's program.
#include "model/cuda/session.h"

namespace nibble {

bool CudaSession::can_fuse_projections(const CudaBlock& b, int rows) const {
  if (!b.q.has_gemv() || !cuda::same_form(b.q, b.k) || !cuda::same_form(b.q, b.v)) return false;
  if (model_->config.parallel_block && !cuda::same_form(b.q, b.up)) return false;
  return rows <= cuda::gemv_rows(b.q.k, parts_);
}

cuda::Gemv CudaSession::of_norm(const cuda::NormWeight& norm, int rows) const {
  cuda::Gemv call;
  call.rows = rows;
  call.parts = parts_;
  call.h = h_.as<float>();
  call.norm = norm;
  return call;
}

// Norm, q, k and v, and in a parallel block the MLP's first product, in one kernel.
cuda::Gemv CudaSession::fused_projections(const CudaBlock& b, int rows) const {
  const ModelConfig& c = model_->config;
  const int64_t ld = c.query_size() + 2 * c.kv_size();
  cuda::Gemv call = of_norm(b.attn_norm, rows);
  float* y = qkv_.as<float>();
  for (const cuda::Weight* w : {&b.q, &b.k, &b.v}) {
    cuda::GemvJob& job = call.jobs[call.n_jobs++];
    job.weight = *w;
    job.y = y;
    job.ldy = ld;
    y += w->n;
  }
  if (c.parallel_block) {
    cuda::GemvJob& job = call.jobs[call.n_jobs++];
    job.weight = b.up;
    job.finish = cuda::Finish::kGelu;
    job.out = inner_;
    job.ld_out = ld_inner_;
  }
  return call;
}

bool CudaSession::can_fuse_mlp(const CudaBlock& b, int rows) const {
  const ModelConfig& c = model_->config;
  return !c.parallel_block && b.up.has_gemv() && rows <= cuda::gemv_rows(b.up.k, parts_) &&
         (!c.has_gate() || cuda::same_form(b.gate, b.up));
}

// Norm, gate, up and what is made of them, in one kernel.
cuda::Gemv CudaSession::fused_mlp(const CudaBlock& b, int rows) const {
  const ModelConfig& c = model_->config;
  cuda::Gemv call = of_norm(b.mlp_norm, rows);
  call.n_jobs = 1;
  cuda::GemvJob& job = call.jobs[0];
  job.weight = c.has_gate() ? b.gate : b.up;
  if (c.has_gate()) job.partner = b.up;
  job.finish = c.has_gate() ? cuda::Finish::kSwiGlu : cuda::Finish::kGelu;
  job.out = inner_;
  job.ld_out = ld_inner_;
  return call;
}

cuda::Attention CudaSession::attention_call(size_t layer, int rows, const Reach& reach, bool step) const {
  cuda::Attention call;
  call.qkv = qkv_.as<float>();
  call.heads = heads_;
  call.places = {device_rows_.positions, device_rows_.slots, rows};
  call.cache = cache_of(layer);
  call.out = attended_;
  call.ld = ld_attended_;
  call.parts = parts_;
  call.splits = reach.splits;
  call.few_keys = reach.few_keys;
  call.rope = step && cache_kind_ == cuda::CacheKind::kF16;
  call.partial = partial_.as<float>();
  return call;
}

cuda::Gemv CudaSession::head_call(const float* h, int rows) const {
  cuda::Gemv call;
  call.n_jobs = 1;
  call.jobs[0].weight = weights_->head;
  call.jobs[0].y = logits_.as<float>();
  call.jobs[0].ldy = model_->config.vocab_size;
  call.rows = rows;
  call.parts = parts_;
  call.h = h;
  call.norm = weights_->final_norm;
  return call;
}

}  // namespace nibble
