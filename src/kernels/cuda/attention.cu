// Attention of single rows over the cache: online softmax (Milakov & Gimelshein 2018) by groups of lanes that
// each go through keys of their own; the groups' results are put together at the end (flash-decoding).
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention_lane.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr int kMaxHeads = 4;  // query heads that a block takes together

// A block: some query heads of one key/value head, one row, one split of its keys. kLanes lanes share a key,
// kDims dimensions each, and hold kDepth keys at a time. A step asks for its first keys, which no kernel
// still writes, before the kernel in front has ended. Shared memory: the queries [kHeads, dim], then the
// row's own key and value as they go into the cache, then cosines and sines, then records of the warps.
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
  constexpr int kDepth = kDims > 8 ? 1 : kKind == CacheKind::kF16 && kHeads == 1 ? 4 : 2;
  const int group = threadIdx.x / kLanes, groups = blockDim.x / kLanes;
  const int padded = (dim + 7) / 8 * 8, record = dim + 2;
  float* queries = shared;
  __half* own = reinterpret_cast<__half*>(shared + kHeads * padded);  // key, then value
  float2* turns = reinterpret_cast<float2*>(shared + kHeads * padded + padded);
  float* records = shared + kHeads * padded + 2 * padded;
  // Places are no kernel's work that may still go on.
  const int position = call.places.positions[row];
  const int64_t base = (int64_t{call.places.slots[row]} * heads.n_kv_heads + kv_head) * cache.context;
  const float* qkv = call.qkv + int64_t{row} * all * dim;
  const int count = position + 1, share = (count + call.splits - 1) / call.splits;
  const int begin = blockIdx.z * share, end = min(count, begin + share);
  const bool has_own = call.rope && begin <= position && position < end;
  const int half = call.rope ? heads.rope_dims / 2 : 0;

  using Row = CachedRow<kKind, kDims>;
  using Stored = typename Row::Stored;
  Row keys[kDepth], values[kDepth];
  const Stored* key_base = static_cast<const Stored*>(cache.keys) + base * dim + first;
  const Stored* value_base = static_cast<const Stored*>(cache.values) + base * dim + first;
  const int old_end = has_own ? position : end;  // of the keys that lie in the cache
  const auto load = [&](Row(&to)[kDepth], const Stored* from, const float* scales, int start) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int at = start + d * groups + group;
      to[d].load(from + at * dim, scales + at, at < old_end ? dim - first : 0);
    }
  };
  const float *key_scales = nullptr, *value_scales = nullptr;
  if constexpr (kKind == CacheKind::kI8) {
    key_scales = cache.key_scales + base;
    value_scales = cache.value_scales + base;
  }
  if (!call.rope) wait_for_previous();
  load(keys, key_base, key_scales, begin);
  load(values, value_base, value_scales, begin);
  if (call.rope) {
#pragma unroll 1
    for (int i = threadIdx.x; i < half; i += blockDim.x)
      turns[i] = *reinterpret_cast<const float2*>(heads.rope + (int64_t{position} * half + i) * 2);
    __syncthreads();
    wait_for_previous();
  }
  // Queries, and the row's own key and value, a warp each: rotated where that is still to be done.
  const float scale = kLog2E * (call.rope ? rsqrtf(static_cast<float>(dim)) : 1.0f);
#pragma unroll 1
  for (int which = warp; which < n_heads + (has_own ? 2 : 0); which += warps) {
    const int head = which < n_heads    ? first_head + which
                     : which == n_heads ? heads.n_heads + kv_head
                                        : heads.n_heads + heads.n_kv_heads + kv_head;
    const float* x = qkv + head * dim;
    const int turned = which <= n_heads ? 2 * half : 0;
#pragma unroll 2
    for (int at = lane; at < padded; at += 32) {
      float value = at < dim ? x[at] : 0.0f;
      if (at < turned) {
        const bool low = at < half;
        const float2 turn = turns[low ? at : at - half];
        const float other = x[low ? at + half : at - half];
        value = value * turn.x + (low ? -other : other) * turn.y;
      }
      if (which < n_heads) {
        queries[which * padded + at] = value * scale;
      } else {
        const __half rounded = __float2half_rn(value);
        own[(which - n_heads) * padded + at] = rounded;
        if (first_repeat == 0 && at < dim)
          static_cast<__half*>(which == n_heads ? cache.keys : cache.values)[(base + position) * dim + at] =
              rounded;
      }
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
#pragma unroll 1
  for (int start = begin; start < end; start += kDepth * groups) {
    float score[kDepth][kHeads];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int at = start + d * groups + group;
      if constexpr (kKind == CacheKind::kF16) {
        if (has_own && at == position) {
          keys[d].load(own + first, nullptr, dim - first);
          values[d].load(own + padded + first, nullptr, dim - first);
        }
      }
      float key[kDims];
      keys[d].read(key);
      // All lanes exchange scores, also those whose group has no key here.
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kDims; ++i) sum += q[h][i] * key[i];
#pragma unroll
        for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        score[d][h] = at < end ? sum : -INFINITY;
      }
    }
    load(keys, key_base, key_scales, start + kDepth * groups);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float largest = score[0][h];
#pragma unroll
      for (int d = 1; d < kDepth; ++d) largest = fmaxf(largest, score[d][h]);
      running[h].raise(largest);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      float value[kDims];
      values[d].read(value);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float weight = running[h].weight(score[d][h]);
        running[h].total += weight;
#pragma unroll
        for (int i = 0; i < kDims; ++i) running[h].sum[i] += weight * value[i];
      }
    }
    load(values, value_base, value_scales, start + kDepth * groups);
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
        static_cast<__half*>(call.out) + int64_t{row} * call.parts * call.ld + (first_head + h) * dim + i,
        call.ld, call.parts, value);
  };
  // body(h, i) for the dimensions i of each head h, a thread each.
  const auto for_outputs = [&](const auto& body) {
#pragma unroll 1
    for (int h = 0, i = threadIdx.x;; i += blockDim.x) {
#pragma unroll 1
      for (; i >= dim && h < n_heads; i -= dim) ++h;
      if (h >= n_heads) return;
      body(h, i);
    }
  };
  // A ticket for each [row][query head], then [row][query head][split][record].
  float* splits = call.partial + kMaxColumns * heads.n_heads +
                  (int64_t{row} * heads.n_heads + first_head) * call.splits * record;
  for_outputs([&](int h, int i) {
    float top, total;
    const float sum = merge_records(records + h * record, warps, kHeads * record, i, top, total);
    if (call.splits == 1) return put(h, i, sum / total);
    float* to = splits + (int64_t{h} * call.splits + blockIdx.z) * record;
    __stcg(to + 2 + i, sum);
    if (i == 0) {
      __stcg(to, top);
      __stcg(to + 1, total);
    }
  });
  if (call.splits == 1) return;
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
  for_outputs([&](int h, int i) {
    float top, total;
    const float sum =
        merge_records(splits + int64_t{h} * call.splits * record, call.splits, record, i, top, total);
    put(h, i, sum / total);
  });
}

template <CacheKind kKind, int kLanes, int kDims, int kHeads>
void run(Queue& queue, const Attention& call, bool overlap) {
  const int repeats = call.heads.n_heads / call.heads.n_kv_heads, chunks = (repeats + kHeads - 1) / kHeads;
  const int threads = call.places.rows > kMaxColumns || call.few_keys ? 128 : 256;
  const int dim = call.heads.head_dim, padded = (dim + 7) / 8 * 8;
  const size_t shared =
      static_cast<size_t>((kHeads + 2) * padded + threads / 32 * kHeads * (dim + 2)) * sizeof(float);
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
  // Dimensions that are not made of eights, or more than any model has: one by one.
  expect(dim <= 1024);
  if (dim % 8 != 0 || dim > 256) return run<kKind, 32, 32, 1>(queue, call, overlap);
  if (dim <= 32) return run<kKind, 4, 8, kHeads>(queue, call, overlap);
  if (dim <= 64) return run<kKind, 8, 8, kHeads>(queue, call, overlap);
  if (dim <= 128) return run<kKind, 16, 8, kHeads>(queue, call, overlap);
  run<kKind, 32, 8, kHeads>(queue, call, overlap);
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
      // A step over few keys: what counts is how little a block has to do.
      if (repeats == 1 || (call.rope && call.splits == 1))
        return run_dims<CacheKind::kF16, 1>(queue, call, overlap);
      if (repeats <= 2) return run_dims<CacheKind::kF16, 2>(queue, call, overlap);
      return run_dims<CacheKind::kF16, kMaxHeads>(queue, call, overlap);
  }
}

}  // namespace nibble::cuda
