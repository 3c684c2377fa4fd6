// Products of any number of rows: gemv() for few, cuBLASLt for many, a plain kernel for float32 weights.
#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr size_t kMostScratch = size_t{64} << 20;  // of unpacked weights
// Rows up to which packed weights are read again for every kMaxColumns of them rather than unpacked.
constexpr int kMostPackedRows = 48;

// A warp a pair of output and row.
__global__ void plain_kernel(const Weight w, const __half* x, int64_t ldx, int parts, bool add, float* y,
                             int64_t ldy) {
  let_next_start();
  wait_for_previous();
  const int n = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.y, lane = threadIdx.x % 32;
  if (n >= w.n) return;
  const float* weight = static_cast<const float*>(w.data) + n * w.stride;
  x += row * parts * ldx;
  float sum = 0;
  for (int i = lane; i < w.k; i += 32) {
    sum += join_parts(x + i, ldx, parts) * weight[i];
  }
  sum = warp_sum(sum);
  if (lane > 0) return;
  if (w.bias) sum += w.bias[n];
  float* to = y + row * ldy + n;
  *to = add ? *to + sum : sum;
}

__global__ void bias_kernel(const float* bias, int n, float* y, int64_t ldy) {
  let_next_start();
  wait_for_previous();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[blockIdx.y * ldy + i] += bias[i];
}

// out[columns, ld]: the inputs of each column in the weight's order.
__global__ void order_kernel(const __half* x, int64_t ldx, const int32_t* order, int k, __half* out,
                             int64_t ld) {
  let_next_start();
  wait_for_previous();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < ld) out[blockIdx.y * ld + i] = i < k ? x[blockIdx.y * ldx + order[i]] : __float2half_rn(0.0f);
}

bool by_gemv(const Weight& w, int rows, int parts) {
  if (!w.has_gemv()) return false;
  const int at_once = gemv_rows(w.k, parts);
  if (at_once == 0) return false;
  // Rounded to fp16, packed weights would lose what float32 activations are asked for.
  if (w.packed()) return parts > 1 || rows <= kMostPackedRows;
  return rows <= at_once;
}

size_t ordered_bytes(const Weight& w, int rows, int parts) {
  return w.order ? static_cast<size_t>(rows) * static_cast<size_t>(parts) *
                       static_cast<size_t>(input_stride(w.k)) * sizeof(__half)
                 : 0;
}

int rows_of_scratch(const Weight& w, size_t bytes) {
  const size_t row = static_cast<size_t>(round_up(w.k, 8)) * sizeof(__half);
  return static_cast<int>(std::min<size_t>(static_cast<size_t>(w.n), bytes / row / 16 * 16));
}

}  // namespace

struct Linears::Blas {
  MatrixProducts products;
};

Linears::Linears() : blas_(new Blas) {}
Linears::~Linears() { delete blas_; }

size_t Linears::scratch_bytes(const Weight& w, int rows, int parts) {
  if (!w.packed() || by_gemv(w, rows, parts)) return 0;
  const size_t row = static_cast<size_t>(round_up(w.k, 8)) * sizeof(__half),
               whole = row * static_cast<size_t>(w.n);
  return ordered_bytes(w, rows, parts) + std::max(std::min(whole, kMostScratch), 16 * row);
}

size_t Linears::workspace_bytes() const { return blas_->products.workspace_bytes(); }

void Linears::run(Queue& queue, const Weight& w, const void* x, int64_t ldx, int rows, int parts, bool add,
                  float* y, int64_t ldy, void* scratch, size_t scratch_size, const Ahead& ahead) {
  const __half* input = static_cast<const __half*>(x);
  if (by_gemv(w, rows, parts)) {
    const int at_once = gemv_rows(w.k, parts);
    for (int row = 0; row < rows; row += at_once) {
      Gemv call = gemv_of(w, input + int64_t{row} * parts * ldx, ldx, std::min(at_once, rows - row), parts,
                          add, y + row * ldy, ldy);
      if (row == 0) call.ahead = ahead;
      gemv(queue, call, true);
    }
    return;
  }
  if (w.kind == WeightKind::kF32) {
    launch(queue, true, dim3((w.n + 7) / 8, rows), 256, 0, plain_kernel, w, input, ldx, parts, add, y, ldy);
    return;
  }
  const int k = static_cast<int>(round_up(w.k, 8));
  const auto multiply = [&](const void* weight, int64_t stride, int first, int n) {
    double unit = double{kInputUnit} * double{w.unit};
    for (int part = 0; part < parts; ++part, unit /= kPartStep)
      blas_->products.run(queue, Number::kF16, {input + part * ldx, parts * ldx}, {weight, stride, true},
                          rows, n, k, unit, add || part > 0 ? 1 : 0, y + first, ldy);
  };
  if (!w.packed()) {
    multiply(w.data, w.stride, 0, w.n);
  } else {
    char* room = static_cast<char*>(scratch);
    const size_t ordered = ordered_bytes(w, rows, parts);
    if (w.order) {
      const int64_t ld = input_stride(w.k);
      launch(queue, true, dim3(static_cast<int>((ld + 255) / 256), rows * parts), 256, 0, order_kernel, input,
             ldx, w.order, w.k, reinterpret_cast<__half*>(room), ld);
      input = reinterpret_cast<const __half*>(room);
      ldx = ld;
    }
    expect(scratch_size > ordered);
    const int at_once = rows_of_scratch(w, scratch_size - ordered);
    expect(at_once > 0);
    for (int first = 0; first < w.n; first += at_once) {
      const int n = std::min(at_once, w.n - first);
      unpack(queue, w, first, n, room + ordered, k);
      multiply(room + ordered, k, first, n);
    }
  }
  if (w.bias) add_bias(queue, w.bias, w.n, rows, y, ldy);
}

void add_bias(Queue& queue, const float* bias, int n, int rows, float* y, int64_t ldy) {
  launch(queue, true, dim3((n + 255) / 256, rows), 256, 0, bias_kernel, bias, n, y, ldy);
}

}  // namespace nibble::cuda
