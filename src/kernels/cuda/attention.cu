// Attention of single rows over the cache: online softmax (Milakov & Gimelshein 2018) by groups of lanes that
// each go through keys of their own; the groups' results are put together at the end (flash-decoding).
#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kMaxHeads = 4;  // query heads that a block takes together

// kDims consecutive values of a cached row, as float32.
template <CacheKind kKind, int kDims>
__device__ __forceinline__ void load_row(const void* cache, const float* scales, int64_t place, int dim,
                                         int first, float (&to)[kDims]) {
  const int64_t at = place * dim + first;
  if constexpr (kKind == CacheKind::kF16 && kDims % 8 == 0) {
    if (dim % 8 == 0) {
#pragma unroll
      for (int i = 0; i < kDims; i += 8) {
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (first + i < dim)
          raw = *reinterpret_cast<const uint4*>(static_cast<const __half*>(cache) + at + i);
        const __half2* pairs = reinterpret_cast<const __half2*>(&raw);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 pair = __half22float2(pairs[j]);
          to[i + 2 * j] = pair.x;
          to[i + 2 * j + 1] = pair.y;
        }
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    to[i] = 0;
    if (first + i >= dim) continue;
    if constexpr (kKind == CacheKind::kF16) to[i] = __half2float(static_cast<const __half*>(cache)[at + i]);
    if constexpr (kKind == CacheKind::kF32) to[i] = static_cast<const float*>(cache)[at + i];
    if constexpr (kKind == CacheKind::kI8)
      to[i] = scales[place] * static_cast<float>(static_cast<const int8_t*>(cache)[at + i]);
  }
}

// Softmax so far of one query head: `sum` of exp(score − top)·value and `total` of exp(score − top).
template <int kDims>
struct Running {
  float top = -INFINITY, total = 0;
  float sum[kDims] = {};

  __device__ __forceinline__ void add(float score, const float (&value)[kDims]) {
    const float largest = fmaxf(top, score), shrink = expf(top - largest), weight = expf(score - largest);
    top = largest;
    total = total * shrink + weight;
#pragma unroll
    for (int i = 0; i < kDims; ++i) sum[i] = sum[i] * shrink + weight * value[i];
  }
};

// Takes the results of lanes `distance` apart together; an empty one (top −∞) counts as nothing.
template <int kDims>
__device__ __forceinline__ void merge_lanes(Running<kDims>& own, int distance) {
  const float other = __shfl_xor_sync(0xffffffffu, own.top, distance);
  const float largest = fmaxf(own.top, other);
  const float shrink = own.top == -INFINITY ? 0.0f : expf(own.top - largest);
  own.total *= shrink;
  own.total += __shfl_xor_sync(0xffffffffu, own.total, distance);
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    own.sum[i] *= shrink;
    own.sum[i] += __shfl_xor_sync(0xffffffffu, own.sum[i], distance);
  }
  own.top = largest;
}

// A block: some query heads of one key/value head, one row, one split of its keys. kLanes lanes share a key,
// kDims dimensions each. Shared memory: the queries [kHeads, dim], then the row's own key and value as they
// go into the cache, then records of the warps.
template <CacheKind kKind, int kLanes, int kDims, int kHeads>
__global__ void __launch_bounds__(256, 1)
    attention_kernel(const __grid_constant__ Attention call, int chunks) {
  extern __shared__ __align__(16) float shared[];
  let_next_start();
  const Heads& heads = call.heads;
  const Cache& cache = call.cache;
  const int dim = heads.head_dim, repeats = heads.n_heads / heads.n_kv_heads,
            all = heads.n_heads + 2 * heads.n_kv_heads;
  const int kv_head = blockIdx.x / chunks, first_repeat = blockIdx.x % chunks * kHeads, row = blockIdx.y;
  const int n_heads = min(kHeads, repeats - first_repeat), first_head = kv_head * repeats + first_repeat;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int first = lane % kLanes * kDims;  // of this lane's dimensions
  const int group = threadIdx.x / kLanes, groups = blockDim.x / kLanes;
  const int padded = (dim + 7) / 8 * 8, record = dim + 2;
  float* queries = shared;
  __half* own = reinterpret_cast<__half*>(shared + kHeads * padded);  // key, then value
  float* records = shared + kHeads * padded + padded;
  // Places are no kernel's work that may still go on.
  const int position = call.places.positions[row];
  const int64_t base = (int64_t{call.places.slots[row]} * heads.n_kv_heads + kv_head) * cache.context;
  const float* qkv = call.qkv + int64_t{row} * all * dim;
  const int count = position + 1, share = (count + call.splits - 1) / call.splits;
  const int begin = blockIdx.z * share, end = min(count, begin + share);
  const bool has_own = call.rope && begin <= position && position < end;

  wait_for_previous();
  // Queries, and the row's own key and value: rotated where that is still to be done.
  const float scale = call.rope ? 1.0f / sqrtf(static_cast<float>(dim)) : 1.0f;
  const int half = heads.rope_dims / 2;
  for (int i = threadIdx.x; i < (n_heads + (has_own ? 2 : 0)) * padded; i += blockDim.x) {
    const int which = i / padded, at = i % padded;
    const int head = which < n_heads    ? first_head + which
                     : which == n_heads ? heads.n_heads + kv_head
                                        : heads.n_heads + heads.n_kv_heads + kv_head;
    const float* x = qkv + head * dim;
    float value = at < dim ? x[at] : 0.0f;
    if (call.rope && at < 2 * half && which <= n_heads) {
      const int pair = at < half ? at : at - half;
      const float2 turn =
          *reinterpret_cast<const float2*>(heads.rope + (int64_t{position} * half + pair) * 2);
      value = at < half ? value * turn.x - x[at + half] * turn.y : value * turn.x + x[at - half] * turn.y;
    }
    if (which < n_heads) {
      queries[i] = value * scale;
    } else {
      const __half rounded = __float2half_rn(value);
      own[(which - n_heads) * padded + at] = rounded;
      if (first_repeat == 0 && at < dim)
        static_cast<__half*>(which == n_heads ? cache.keys : cache.values)[(base + position) * dim + at] =
            rounded;
    }
  }
  __syncthreads();
  float q[kHeads][kDims];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int i = 0; i < kDims; ++i)
      q[h][i] = h < n_heads && first + i < dim ? queries[h * padded + first + i] : 0.0f;
  }

  Running<kDims> running[kHeads];
#pragma unroll 2
  for (int start = begin; start < end; start += groups) {
    const int at = start + group;
    const bool here = at < end;
    float key[kDims], value[kDims];
    if (has_own && at == position) {
      load_row<CacheKind::kF16, kDims>(own, nullptr, 0, dim, first, key);
      load_row<CacheKind::kF16, kDims>(own + padded, nullptr, 0, dim, first, value);
    } else {
      const int64_t place = base + (here ? at : begin);
      load_row<kKind, kDims>(cache.keys, cache.key_scales, place, dim, first, key);
      load_row<kKind, kDims>(cache.values, cache.value_scales, place, dim, first, value);
    }
    // All lanes exchange scores, also those whose group has no key here.
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= n_heads) break;
      float score = 0;
#pragma unroll
      for (int i = 0; i < kDims; ++i) score += q[h][i] * key[i];
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
      if (here) running[h].add(score, value);
    }
  }

  // Groups of a warp, then the warps: [warp][head][top, total, sum of dim].
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= n_heads) break;
#pragma unroll
    for (int distance = kLanes; distance < 32; distance *= 2) merge_lanes(running[h], distance);
    float* to = records + (warp * kHeads + h) * record;
    if (lane < kLanes) {
      if (lane == 0) {
        to[0] = running[h].top;
        to[1] = running[h].total;
      }
#pragma unroll
      for (int i = 0; i < kDims; ++i) {
        if (first + i < dim) to[2 + first + i] = running[h].sum[i];
      }
    }
  }
  __syncthreads();
  const auto put = [&](int h, int i, float value) {
    store_parts(
        static_cast<Bf16*>(call.out) + int64_t{row} * call.parts * call.ld + (first_head + h) * dim + i,
        call.ld, call.parts, value);
  };
  // Volatile: other blocks wrote some of them. Of `n` records: the weighted sum of dimension i, and the top
  // and total of all.
  const auto merged = [&](const volatile float* from, int n, int stride, int i, float& top, float& total) {
    top = -INFINITY;
    total = 0;
    float sum = 0;
    for (int r = 0; r < n; ++r) top = fmaxf(top, from[r * stride]);
    for (int r = 0; r < n; ++r) {
      const float other = from[r * stride], weight = other == -INFINITY ? 0.0f : expf(other - top);
      total += weight * from[r * stride + 1];
      sum += weight * from[r * stride + 2 + i];
    }
    return sum;
  };
  if (call.splits == 1) {
    for (int at = threadIdx.x; at < n_heads * dim; at += blockDim.x) {
      float top, total;
      const float sum = merged(records + at / dim * record, warps, kHeads * record, at % dim, top, total);
      put(at / dim, at % dim, sum / total);
    }
    return;
  }
  // A ticket for each [row][query head], then [row][query head][split][record].
  float* splits = call.partial + kMaxColumns * heads.n_heads +
                  (int64_t{row} * heads.n_heads + first_head) * call.splits * record;
  for (int at = threadIdx.x; at < n_heads * dim; at += blockDim.x) {
    const int h = at / dim, i = at % dim;
    float top, total;
    const float sum = merged(records + h * record, warps, kHeads * record, i, top, total);
    float* to = splits + (int64_t{h} * call.splits + blockIdx.z) * record;
    __stcg(to + 2 + i, sum);
    if (i == 0) {
      __stcg(to, top);
      __stcg(to + 1, total);
    }
  }
  __threadfence();
  __shared__ bool last;
  __syncthreads();
  int* tickets = reinterpret_cast<int*>(call.partial) + row * heads.n_heads + first_head;
  if (threadIdx.x == 0) {
    last = atomicAdd(tickets, 1) == call.splits - 1;
    if (last) *tickets = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int at = threadIdx.x; at < n_heads * dim; at += blockDim.x) {
    const int h = at / dim, i = at % dim;
    float top, total;
    const float sum = merged(splits + int64_t{h} * call.splits * record, call.splits, record, i, top, total);
    put(h, i, sum / total);
  }
}

template <CacheKind kKind, int kLanes, int kDims, int kHeads>
void run(Queue& queue, const Attention& call, bool overlap) {
  const int repeats = call.heads.n_heads / call.heads.n_kv_heads, chunks = (repeats + kHeads - 1) / kHeads;
  const int threads = call.places.rows > kMaxColumns ? 128 : 256;
  const int dim = call.heads.head_dim, padded = (dim + 7) / 8 * 8;
  const size_t shared =
      static_cast<size_t>((kHeads + 1) * padded + threads / 32 * kHeads * (dim + 2)) * sizeof(float);
  auto kernel = attention_kernel<kKind, kLanes, kDims, kHeads>;
  static const bool raised = [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device().shared_bytes_per_block - 1024),
          "more shared memory");
    return true;
  }();
  static_cast<void>(raised);
  launch(queue, overlap, dim3(call.heads.n_kv_heads * chunks, call.places.rows, call.splits), threads, shared,
         kernel, call, chunks);
}

template <CacheKind kKind, int kHeads>
void run_dims(Queue& queue, const Attention& call, bool overlap) {
  const int dim = call.heads.head_dim;
  if (dim <= 32) return run<kKind, 4, 8, kHeads>(queue, call, overlap);
  if (dim <= 64) return run<kKind, 8, 8, kHeads>(queue, call, overlap);
  if (dim <= 128) return run<kKind, 16, 8, kHeads>(queue, call, overlap);
  if (dim <= 256) return run<kKind, 32, 8, kHeads>(queue, call, overlap);
  expect(dim <= 1024);
  run<kKind, 32, 32, 1>(queue, call, overlap);
}

}  // namespace

size_t attention_scratch(const Heads& heads, int rows, int splits) {
  expect(rows <= kMaxColumns);
  const int64_t records = int64_t{rows} * heads.n_heads * splits * (heads.head_dim + 2);
  return static_cast<size_t>(records + kMaxColumns * heads.n_heads) * sizeof(float);
}

void attention(Queue& queue, const Attention& call, bool overlap) {
  expect(!call.rope || call.cache.kind == CacheKind::kF16);
  const int repeats = call.heads.n_heads / call.heads.n_kv_heads;
  switch (call.cache.kind) {
    case CacheKind::kF32:
      return run_dims<CacheKind::kF32, 1>(queue, call, overlap);
    case CacheKind::kI8:
      return run_dims<CacheKind::kI8, 1>(queue, call, overlap);
    case CacheKind::kF16:
      if (repeats == 1) return run_dims<CacheKind::kF16, 1>(queue, call, overlap);
      if (repeats <= 2) return run_dims<CacheKind::kF16, 2>(queue, call, overlap);
      return run_dims<CacheKind::kF16, kMaxHeads>(queue, call, overlap);
  }
}

}  // namespace nibble::cuda
