// Small operations of calibration's passes in float32.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

dim3 blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

__device__ int64_t index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__global__ void join_kernel(const __half* from, int64_t ld, int parts, int n, float* out) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n) return;
  out[int64_t{blockIdx.y} * n + i] = join_parts(from + int64_t{blockIdx.y} * parts * ld + i, ld, parts);
}

__global__ void subtract_kernel(const float* a, const float* b, const float* bias, int64_t count, int width,
                                float* to) {
  const int64_t i = index();
  if (i < count) to[i] = a[i] - b[i] - (bias ? bias[i % width] : 0.0f);
}

__global__ void accumulate_kernel(const float* x, int64_t count, float* to) {
  const int64_t i = index();
  if (i < count) to[i] += x[i];
}

// Threads [32, 8]: a column each, an eighth of the rows each.
__global__ void magnitudes_kernel(const float* x, int rows, int k, double* sum) {
  __shared__ float room[8][32];
  const int column = blockIdx.x * 32 + threadIdx.x;
  float total = 0;
  for (int r = threadIdx.y; column < k && r < rows; r += 8) total += fabsf(x[int64_t{r} * k + column]);
  room[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y > 0 || column >= k) return;
  for (int part = 1; part < 8; ++part) total += room[part][threadIdx.x];
  sum[column] += static_cast<double>(total);
}

__global__ void mirror_kernel(float* matrix, int k) {
  __shared__ float tile[32][33];
  if (blockIdx.x < blockIdx.y) return;  // tiles of the upper triangle
  const int column = blockIdx.x * 32 + threadIdx.x, below = blockIdx.y * 32;
  for (int r = threadIdx.y; r < 32; r += 8) {
    if (below + r < k && column < k) tile[r][threadIdx.x] = matrix[int64_t{below + r} * k + column];
  }
  __syncthreads();
  const int to_column = below + threadIdx.x;
  for (int r = threadIdx.y; r < 32; r += 8) {
    const int to_row = blockIdx.x * 32 + r;
    if (to_row < k && to_column < to_row) matrix[int64_t{to_row} * k + to_column] = tile[threadIdx.x][r];
  }
}

}  // namespace

void join_parts(Queue& queue, const void* parts_of, int64_t ld, int parts, int rows, int n, float* out) {
  launch(queue, false, dim3(blocks_for(n).x, static_cast<unsigned>(rows)), kThreads, 0, join_kernel,
         static_cast<const __half*>(parts_of), ld, parts, n, out);
}

void subtract(Queue& queue, const float* a, const float* b, const float* bias, int64_t count, int width,
              float* to) {
  launch(queue, false, blocks_for(count), kThreads, 0, subtract_kernel, a, b, bias, count, width, to);
}

void accumulate(Queue& queue, const float* x, int64_t count, float* to) {
  launch(queue, false, blocks_for(count), kThreads, 0, accumulate_kernel, x, count, to);
}

void add_magnitudes(Queue& queue, const float* x, int rows, int k, double* sum) {
  launch(queue, false, dim3(static_cast<unsigned>((k + 31) / 32)), dim3(32, 8), 0, magnitudes_kernel, x, rows,
         k, sum);
}

void mirror_upper(Queue& queue, float* matrix, int k) {
  const unsigned tiles = static_cast<unsigned>((k + 31) / 32);
  launch(queue, false, dim3(tiles, tiles), dim3(32, 8), 0, mirror_kernel, matrix, k);
}

}  // namespace nibble::cuda
