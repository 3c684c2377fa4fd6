// Attention as a part of a step (step.cu): a block takes a row's query head. Keys and values that lie in the
// cache come through the ring, keys before values, asked for long before the queries are there; the row's own
// are made of the projections and written into the cache. All scores first, then the values' sum.
#pragma once

#include "kernels/cuda/attention_lane.cuh"
#include "kernels/cuda/step_panels.cuh"

namespace nibble::cuda {
namespace {

// Where a row's head lies in the cache: keys of `dim` fp16 numbers one after the other.
struct StepHead {
  int head, row, kv_head, position;
  int64_t first;  // element of its keys, and of its values
};
__device__ __forceinline__ StepHead open_head(const Attention& call, int item) {
  StepHead at;
  at.row = item / call.heads.n_heads;
  at.head = item - at.row * call.heads.n_heads;
  at.kv_head = at.head / (call.heads.n_heads / call.heads.n_kv_heads);
  at.position = __ldcg(call.places.positions + at.row);
  at.first = (int64_t{__ldcg(call.places.slots + at.row)} * call.heads.n_kv_heads + at.kv_head) *
             call.cache.context * call.heads.head_dim;
  return at;
}

// Keys of a stage.
__device__ __forceinline__ int keys_of_stage(int dim) { return kStageUnits * 256 / dim; }

__device__ __forceinline__ void ask_for_keys(const StepPart& part, int own, StepShared& shared,
                                             unsigned char* ring, int stages, RingPlace& place) {
  const Attention& call = part.attention;
  const int dim = call.heads.head_dim, most = keys_of_stage(dim);
  for (int item = own; item < part.items; item += part.blocks) {
    const StepHead head = open_head(call, item);
    for (const void* cache : {call.cache.keys, call.cache.values}) {
      const __half* from = static_cast<const __half*>(cache) + head.first;
      for (int first = 0; first < head.position; first += most) {
        ask_for_stage(from + first * dim, min(most, head.position - first) * dim * 2, shared, ring, stages,
                      place);
      }
    }
  }
}

// scores: kMaxStepKeys floats; room: kStepAttentionBytes.
__device__ __forceinline__ void attend_step(const StepPart& part, int own, StepShared& shared,
                                            const unsigned char* ring, int stages, StepPlace& place_of_step,
                                            float* scores, unsigned char* room) {
  const Attention& call = part.attention;
  const Heads& heads = call.heads;
  const int thread = fresh_thread(), lane = thread % 32, warp = thread / 32, dim = heads.head_dim,
            half = heads.rope_dims / 2, most = keys_of_stage(dim);
  const int lanes = dim <= 64 ? 8 : 16, groups = kStepThreads / lanes, group = thread / lanes,
            first = thread % lanes * 8;
  RingPlace& place = place_of_step.ring;
  const float* qkv = in_set(call.qkv, part.awaits_input, place_of_step.set);
  __half* out = in_set(static_cast<__half*>(call.out), part.sends, place_of_step.set);
  float* queries = reinterpret_cast<float*>(room);
  __half* key = reinterpret_cast<__half*>(queries + kMaxStepDim);
  __half* value = key + kMaxStepDim;
  float2* turns = reinterpret_cast<float2*>(value + kMaxStepDim);  // cosines and sines of the position
  float* records = reinterpret_cast<float*>(turns + kMaxStepDim / 2);
#pragma unroll 1
  for (int item = own; item < part.items; item += part.blocks) {
    const StepHead at = open_head(call, item);
#pragma unroll 1
    for (int i = thread; i < half; i += kStepThreads)
      turns[i] = __ldg(reinterpret_cast<const float2*>(heads.rope) + int64_t{at.position} * half + i);
    sync_step();
    // Query, key and value of the row, rotated.
#pragma unroll 1
    for (int i = thread; i < 3 * dim; i += kStepThreads) {
      const int which = i >= 2 * dim ? 2 : i >= dim ? 1 : 0, j = i - which * dim;
      const float* x = qkv + (int64_t{at.row} * (heads.n_heads + 2 * heads.n_kv_heads) +
                              (which == 0   ? at.head
                               : which == 1 ? heads.n_heads + at.kv_head
                                            : heads.n_heads + heads.n_kv_heads + at.kv_head)) *
                                 dim;
      const bool turned = which < 2 && j < 2 * half, low = j < half;
      const int pair = turned ? low ? j + half : j - half : j;
      uint32_t word, other_word;
      do {
        word = read_word(x + j);
        other_word = read_word(x + pair);
      } while (part.awaits_input && max(word, other_word) == kNothing);
      float number = __uint_as_float(word);
      if (turned) {
        const float other = __uint_as_float(other_word);
        const float2 turn = turns[low ? j : pair];
        number = number * turn.x + (low ? -other : other) * turn.y;
      }
      if (which == 0) {
        queries[j] = number * (kLog2E * rsqrtf(static_cast<float>(dim)));
      } else {
        const __half rounded = __float2half_rn(number);
        (which == 1 ? key : value)[j] = rounded;
        if (at.head % (heads.n_heads / heads.n_kv_heads) == 0)
          static_cast<__half*>(which == 1 ? call.cache.keys
                                          : call.cache.values)[at.first + at.position * dim + j] = rounded;
      }
    }
    sync_step();
    float q[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = first < dim ? queries[first + i] : 0.0f;
    // body(rows, the first of them, how many) for the stages of the cached keys or values that come next.
    const auto for_stages = [&](const auto& body) {
#pragma unroll 1
      for (int begin = 0; begin < at.position; begin += most) {
        shared.full[place.stage].wait(place.parity);
        body(reinterpret_cast<const __half*>(ring + place.stage * kStageBytes), begin,
             min(most, at.position - begin));
        leave_stage(shared, place, stages, lane);
      }
    };
    const int own_group = at.position % groups;  // whose turn the row's own key is
    // This lane's dimensions of a key or value; any of them where it has none.
    const auto read = [&](const __half* from, float(&to)[8]) {
      CachedRow<CacheKind::kF16, 8> row;
      row.load(from + (first < dim ? first : 0), nullptr, 8);
      row.read(to);
    };
    const auto score = [&](const __half* from, int to) {
      float k[8], sum = 0;
      read(from, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += q[i] * k[i];
      if (lanes == 16) sum += __shfl_xor_sync(0xffffffffu, sum, 8);
#pragma unroll
      for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (first == 0) scores[to] = sum;
    };
    for_stages([&](const __half* keys, int begin, int n) {
#pragma unroll 2
      for (int i = group; i - group < n; i += groups)
        score(keys + min(i, n - 1) * dim, begin + min(i, n - 1));
    });
    if (warp == own_group / (32 / lanes)) score(key, at.position);
    sync_step();
    float top = -INFINITY;
#pragma unroll 1
    for (int i = lane; i <= at.position; i += 32) top = fmaxf(top, scores[i]);
    top = warp_max(top);
    float sum[8] = {}, total = 0;
    const auto take = [&](const __half* from, int which) {
      float v[8];
      read(from, v);
      const float weight = exp2f(scores[which] - top);
      total += weight;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += weight * v[i];
    };
    for_stages([&](const __half* values, int begin, int n) {
#pragma unroll 2
      for (int i = group; i < n; i += groups) take(values + i * dim, begin + i);
    });
    if (group == own_group) take(value, at.position);
    __syncwarp();
#pragma unroll
    for (int distance = 8; distance < 32; distance *= 2) {
      if (distance < lanes) continue;
      total += __shfl_xor_sync(0xffffffffu, total, distance);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], distance);
    }
    float* record = records + warp * kRecordFloats;
    if (lane < lanes && first < dim) {
      *reinterpret_cast<float4*>(record + first) = make_float4(sum[0], sum[1], sum[2], sum[3]);
      *reinterpret_cast<float4*>(record + first + 4) = make_float4(sum[4], sum[5], sum[6], sum[7]);
      if (lane == 0) record[kMaxStepDim] = total;
    }
    sync_step();
    if (warp * 32 < dim) {
      float whole = 0, all = 1;
      if (thread < dim) {
        all = 0;
#pragma unroll
        for (int w = 0; w < kStepWarps; ++w) {
          whole += records[w * kRecordFloats + thread];
          all += records[w * kRecordFloats + kMaxStepDim];
        }
      }
      send_input(out + int64_t{at.row} * call.ld + at.head * dim + thread, whole / all, thread < dim);
    }
    sync_step();  // the records' room is others' next
  }
}

}  // namespace
}  // namespace nibble::cuda
