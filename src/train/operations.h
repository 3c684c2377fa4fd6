// The operations of a block and their gradients, each on the rows it is given. Those that go forward and that
// inference has too are the kernel table's.
#pragma once

#include <cstdint>

#include "kernels/ops.h"
#include "model/config.h"

namespace nibble {

// Of y = norm(x) with `weight` (and for LayerNorm a bias): adds ∂loss/∂x to dx[n] for dy[n], and to
// dweight[n] and dbias[n] unless null. xhat[n] is scratch.
void norm_gradient(NormKind kind, float eps, const float* x, const float* weight, const float* dy, int64_t n,
                   float* xhat, float* dx, float* dweight, float* dbias);

// Of y = silu(gate)·up: gate and up become their gradients. scratch [n].
void swiglu_gradient(const KernelTable& kernels, float* gate, float* up, const float* dy, int64_t n,
                     float* scratch);

// Of y = gelu_new(x): x becomes its gradient. scratch [n].
void gelu_gradient(const KernelTable& kernels, float* x, const float* dy, int64_t n, float* scratch);

// Turns the first 2·pairs dimensions of each head of a row by the angles in `table` [pairs][cos, sin], or
// back, which is also the turn's gradient.
enum class Turn { kForward, kBack };
void rotate_row(float* row, int64_t heads, int64_t head_dim, int64_t pairs, const float* table, Turn turn);

// One head's causal attention over one sequence: rows of q, out [tokens, head_dim] lie q_stride apart, those
// of k and v kv_stride.
struct HeadView {
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t tokens = 0, head_dim = 0, q_stride = 0, kv_stride = 0;
};
size_t attention_gradient_scratch(int64_t tokens);  // floats, of either call
void attend_whole(const KernelTable& kernels, const HeadView& head, float* out, float* scratch);
// dout as out. dq becomes ∂loss/∂q; dk and dv, whose rows lie q_stride apart, too.
void attention_gradient(const KernelTable& kernels, const HeadView& head, const float* dout, float* dq,
                        float* dk, float* dv, float* scratch);

}  // namespace nibble
