// Norms, activations and rotary positions.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float block_sum(float value) {
  __shared__ float room[kThreads / 32];
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (const float part : room) total += part;
  return total;
}

__global__ void norm_kernel(const float* h, int n, NormWeight norm, int parts, __half* out, int64_t ld) {
  let_next_start();
  wait_for_previous();
  h += int64_t{blockIdx.x} * n;
  out += blockIdx.x * parts * ld;
  float mean = 0, sum = 0;
  if (norm.bias) {
    for (int i = threadIdx.x; i < n; i += kThreads) sum += h[i];
    mean = block_sum(sum) / static_cast<float>(n);
    sum = 0;
  }
  for (int i = threadIdx.x; i < n; i += kThreads) sum += (h[i] - mean) * (h[i] - mean);
  const float inverse = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(n) + norm.eps);
  for (int i = threadIdx.x; i < n; i += kThreads) {
    float value = (h[i] - mean) * inverse * norm.weight[i];
    if (norm.bias) value += norm.bias[i];
    store_parts(out + i, ld, parts, value);
  }
}

template <bool kGated>
__global__ void activate_kernel(const float* from, int n, int parts, __half* out, int64_t ld) {
  let_next_start();
  wait_for_previous();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t row = blockIdx.y;
  float value;
  if constexpr (kGated) {
    value = silu(from[row * 2 * n + i]) * from[row * 2 * n + n + i];
  } else {
    value = gelu_new(from[row * n + i]);
  }
  store_parts(out + row * parts * ld + i, ld, parts, value);
}

// A warp a head of a row: query heads first, then keys, then values. `shared`: head_dim floats a warp.
__global__ void rope_kernel(float* qkv, Heads heads, Places places, Cache cache) {
  extern __shared__ float rotated[];
  let_next_start();
  wait_for_previous();
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32, all = heads.n_heads + 2 * heads.n_kv_heads;
  const int head = blockIdx.x * warps + threadIdx.x / 32, row = blockIdx.y, dim = heads.head_dim;
  if (head >= all) return;
  float* values = rotated + threadIdx.x / 32 * dim;
  float* x = qkv + (int64_t{row} * all + head) * dim;
  const int position = places.positions[row], half = heads.rope_dims / 2;
  const bool query = head < heads.n_heads, value_head = head >= heads.n_heads + heads.n_kv_heads;
  const float scale = query ? 1.0f / sqrtf(static_cast<float>(dim)) : 1.0f;
  for (int i = lane; i < dim; i += 32) values[i] = x[i];
  __syncwarp();
  if (!value_head) {
    const float* table = heads.rope + int64_t{position} * half * 2;
    for (int j = lane; j < half; j += 32) {
      const float cos = table[2 * j], sin = table[2 * j + 1], a = values[j], b = values[j + half];
      values[j] = a * cos - b * sin;
      values[j + half] = b * cos + a * sin;
    }
    __syncwarp();
  }
  if (query) {
    for (int i = lane; i < dim; i += 32) x[i] = values[i] * scale;
    return;
  }
  const int kv_head = (head - heads.n_heads) % heads.n_kv_heads;
  const int64_t place = (int64_t{places.slots[row]} * heads.n_kv_heads + kv_head) * cache.context + position;
  void* to = value_head ? cache.values : cache.keys;
  if (cache.kind == CacheKind::kI8) {
    float largest = 0;
    for (int i = lane; i < dim; i += 32) largest = fmaxf(largest, fabsf(values[i]));
    largest = warp_max(largest);
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (int i = lane; i < dim; i += 32)
      static_cast<int8_t*>(to)[place * dim + i] = static_cast<int8_t>(__float2int_rn(values[i] * inverse));
    if (lane == 0) (value_head ? cache.value_scales : cache.key_scales)[place] = largest / 127.0f;
  } else {
    for (int i = lane; i < dim; i += 32) {
      if (cache.kind == CacheKind::kF16) {
        static_cast<__half*>(to)[place * dim + i] = __float2half_rn(values[i]);
      } else {
        static_cast<float*>(to)[place * dim + i] = values[i];
      }
    }
  }
}

}  // namespace

void norm(Queue& queue, const float* h, int n, const NormWeight& norm, int rows, int parts, void* out,
          int64_t ld) {
  launch(queue, true, rows, kThreads, 0, norm_kernel, h, n, norm, parts, static_cast<__half*>(out), ld);
}

void swiglu(Queue& queue, const float* gate_up, int n, int rows, int parts, void* out, int64_t ld) {
  launch(queue, true, dim3((n + kThreads - 1) / kThreads, rows), kThreads, 0, activate_kernel<true>, gate_up,
         n, parts, static_cast<__half*>(out), ld);
}

void gelu(Queue& queue, const float* up, int n, int rows, int parts, void* out, int64_t ld) {
  launch(queue, true, dim3((n + kThreads - 1) / kThreads, rows), kThreads, 0, activate_kernel<false>, up, n,
         parts, static_cast<__half*>(out), ld);
}

void rope_and_store(Queue& queue, float* qkv, const Heads& heads, const Places& places, const Cache& cache) {
  const int all = heads.n_heads + 2 * heads.n_kv_heads, warps = kThreads / 32;
  launch(queue, true, dim3((all + warps - 1) / warps, places.rows), kThreads,
         static_cast<size_t>(warps) * static_cast<size_t>(heads.head_dim) * sizeof(float), rope_kernel, qkv,
         heads, places, cache);
}

}  // namespace nibble::cuda
