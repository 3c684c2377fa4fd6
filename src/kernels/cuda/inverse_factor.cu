// The Cholesky factor of an inverse, in float64: with J the exchange matrix and J·H·J = L·Lᵀ, H⁻¹ = Uᵀ·U for
// U = J·L⁻¹·J (as quant/linalg.h). Diagonal blocks by one thread block, the rest by cuBLASLt.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_ops.h"

namespace nibble::cuda {
namespace {

constexpr int kBlock = 64;
constexpr int kThreads = 256;

__device__ double probe(int64_t i) { return i % 3 == 0 ? 1.0 : -0.5; }

// h = J·H·J.
__global__ void damped_kernel(const float* gram, const int32_t* order, int64_t k, double scale, double added,
                              double* h) {
  const int64_t i = blockIdx.y, j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= k) return;
  double value = static_cast<double>(gram[order[k - 1 - i] * k + order[k - 1 - j]]) * scale;
  if (i == j) value = (value == 0 ? 1 : value) + added;
  h[i * k + j] = value;
}

// a [w, w] = L·Lᵀ: L into l, and L⁻¹ in a's place, both with zeros above the diagonal.
__global__ void __launch_bounds__(kThreads)
    diagonal_kernel(double* a, double* l, int64_t ld, int w, int32_t* failed) {
  // Row j holds L's row j up to the diagonal, and behind it, one place further, L⁻¹'s column j.
  __shared__ double m[kBlock][kBlock + 1];
  const int t = threadIdx.x, row = t % kBlock, part = t / kBlock;
  for (int c = part; c < w; c += kThreads / kBlock) {
    if (row < w) m[c][row] = a[c * ld + row];
  }
  for (int j = 0; j < w; ++j) {
    __syncthreads();
    double pivot = m[j][j];
    if (!(pivot > 0) || !isfinite(pivot)) {
      if (t == 0) *failed = 1;
      pivot = 1;
    }
    const double root = sqrt(pivot);
    const double mine = t > j && t < w ? m[t][j] / root : root;
    __syncthreads();
    if (t >= j && t < w) m[t][j] = mine;
    __syncthreads();
    for (int c = j + 1 + part; c < w; c += kThreads / kBlock) {
      if (row >= c && row < w) m[row][c] -= m[row][j] * m[c][j];
    }
  }
  __syncthreads();
  for (int r = part; r < w; r += kThreads / kBlock) {
    if (row < w) l[r * ld + row] = row <= r ? m[r][row] : 0.0;
  }
  __syncthreads();
  if (t < w) {
    for (int i = t; i < w; ++i) {
      double sum = i == t ? 1.0 : 0.0;
      for (int j = t; j < i; ++j) sum -= m[i][j] * m[t][j + 1];
      m[t][i + 1] = sum / m[i][i];
    }
  }
  __syncthreads();
  for (int r = part; r < w; r += kThreads / kBlock) {
    if (row < w) a[r * ld + row] = row <= r ? m[row][r + 1] : 0.0;
  }
}

// The blocks above the diagonal ones.
__global__ void clear_upper_kernel(double* a, int64_t k) {
  const int64_t i = blockIdx.y, j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < k && j > i) a[i * k + j] = 0;
}

// y[i] = Σ a[i, j]·x[j]; x null: of the probe. A block a row.
__global__ void times_kernel(const double* a, const double* x, int64_t k, double* y) {
  __shared__ double room[kThreads];
  const int64_t i = blockIdx.x;
  double sum = 0;
  for (int64_t j = threadIdx.x; j < k; j += kThreads) sum += a[i * k + j] * (x ? x[j] : probe(j));
  room[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
  }
  if (threadIdx.x == 0) y[i] = room[0];
}

// y[j] = Σ a[i, j]·x[i] of a lower triangle.
__global__ void times_transposed_kernel(const double* a, const double* x, int64_t k, double* y) {
  const int64_t j = int64_t{blockIdx.x} * 32 + threadIdx.x;
  if (j >= k) return;
  double sum = 0;
  for (int64_t i = j; i < k; ++i) sum += a[i * k + j] * x[i];
  y[j] = sum;
}

// Whether the probe came back.
__global__ void compare_kernel(const double* back, int64_t k, int32_t* failed) {
  __shared__ double room[2][kThreads];
  double error = 0, size = 0;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    const double v = probe(i), difference = back[i] - v;
    error += difference * difference;
    size += v * v;
  }
  room[0][threadIdx.x] = error;
  room[1][threadIdx.x] = size;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int i = 1; i < kThreads; ++i) {
    error += room[0][i];
    size += room[1][i];
  }
  if (!(error <= 1e-4 * size)) *failed = 1;
}

// u = J·x·J, x lower.
__global__ void store_kernel(const double* x, int64_t k, float* u) {
  const int64_t i = blockIdx.y, j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < k) u[i * k + j] = j < i ? 0.0f : static_cast<float>(x[(k - 1 - i) * k + k - 1 - j]);
}

}  // namespace

InverseFactor::InverseFactor(int64_t k)
    : k_(k),
      h_(static_cast<size_t>(k * k) * sizeof(double)),
      l_(h_.bytes()),
      panel_(static_cast<size_t>(k) * kBlock * sizeof(double)),
      vectors_(static_cast<size_t>(k) * 3 * sizeof(double)),
      state_(sizeof(int32_t)) {}

bool InverseFactor::run(Queue& queue, MatrixProducts& products, const float* gram, const int32_t* order,
                        double scale, double added, float* u) {
  const int64_t k = k_;
  double *h = h_.as<double>(), *l = l_.as<double>(), *panel = panel_.as<double>(),
         *hv = vectors_.as<double>();
  double *middle = hv + k, *back = middle + k;
  int32_t* state = state_.as<int32_t>();
  const dim3 whole(static_cast<unsigned>((k + kThreads - 1) / kThreads), static_cast<unsigned>(k));
  int32_t failed = 0;
  queue.to_device(state, &failed, sizeof failed);
  launch(queue, false, whole, kThreads, 0, damped_kernel, gram, order, k, scale, added, h);
  launch(queue, false, static_cast<unsigned>(k), kThreads, 0, times_kernel, h, nullptr, k, hv);
  for (int64_t b = 0; b < k; b += kBlock) {
    const int64_t w = std::min<int64_t>(kBlock, k - b), next = b + w, rest = k - next;
    launch(queue, false, 1, kThreads, 0, diagonal_kernel, h + b * k + b, l + b * k + b, k,
           static_cast<int>(w), state);
    if (rest == 0) break;
    double *below = h + next * k, *column = l + next * k + b;
    products.run(queue, Number::kF64, {below + b, k}, {h + b * k + b, k, true}, rest, w, w, 1, 0, column, k);
    products.run(queue, Number::kF64, {column, k}, {column, k, true}, rest, rest, w, -1, 1, below + next, k);
  }
  launch(queue, false, whole, kThreads, 0, clear_upper_kernel, h, k);
  // Columns from the last to the first: X[j+1:, j] = −X[j+1:, j+1:] · L[j+1:, j] · X[j, j].
  for (int64_t b = (k - 1) / kBlock * kBlock; b >= 0; b -= kBlock) {
    const int64_t w = std::min<int64_t>(kBlock, k - b), next = b + w, rest = k - next;
    if (rest == 0) continue;
    products.run(queue, Number::kF64, {h + next * k + next, k}, {l + next * k + b, k}, rest, w, rest, 1, 0,
                 panel, kBlock);
    products.run(queue, Number::kF64, {panel, kBlock}, {h + b * k + b, k}, rest, w, w, -1, 0,
                 h + next * k + b, k);
  }
  launch(queue, false, static_cast<unsigned>(k), kThreads, 0, times_kernel, h, hv, k, middle);
  launch(queue, false, static_cast<unsigned>((k + 31) / 32), 32, 0, times_transposed_kernel, h, middle, k,
         back);
  launch(queue, false, 1, kThreads, 0, compare_kernel, back, k, state);
  launch(queue, false, whole, kThreads, 0, store_kernel, h, k, u);
  queue.to_host(&failed, state, sizeof failed);
  queue.wait();
  return failed == 0;
}

}  // namespace nibble::cuda
