// Packed weights on the card: tiles in the order in which a warp's lanes hold them as the left operand of a
// product (gemv_kernel.cuh), made of the panels of tensor/packed.h; and back to fp16; bf16 weights, which
// become fp16.
//
// Lane l of a warp (g = l / 4, t = l % 4) owns 16 bytes of a tile. kQ4, 16 rows × 64 inputs: word s has
// inputs 16s + 4t … + 3 of rows g and g + 8; nibble i + 4j (i, j: row of the pair and input pair, first or
// second of it) as to_operand() takes them apart. kQ8, 16 rows × 32 inputs: word 2s + r has inputs 16s + 4t …
// + 3 of row g + 8r, a byte each.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

int blocks_for(int64_t n) { return static_cast<int>((n + kThreads - 1) / kThreads); }

// Row r of its panel, input i of its chunk; the layouts stand in tensor/packed.h.
__device__ uint32_t code_in_chunk(const uint8_t* chunk, int bits, int r, int i) {
  const int byte = 4 * r + i % 4, quad = i / 4;
  switch (bits) {
    case 8:
      return chunk[byte];
    case 4:
      return chunk[byte] >> (4 * quad) & 15;
    case 2:
      return chunk[byte] >> (2 * quad) & 3;
    case 3:
      return (chunk[byte] >> (2 * quad) & 3) | (chunk[64 + 2 * r + i / 8] >> (i % 8) & 1) << 2;
    default:  // 6
      return (chunk[byte + quad / 2 * 64] >> (quad % 2 * 4) & 15) | (chunk[byte + 128] >> (2 * quad) & 3)
                                                                        << 4;
  }
}

__device__ uint32_t packed_code(const uint8_t* codes, int bits, int k, int row, int input) {
  if (input >= k) return 0;
  const int inputs = bits == 8 ? 4 : bits == 4 ? 8 : 16, bytes = bits == 3 ? 96 : bits == 6 ? 192 : 64;
  const int64_t chunks = (k + inputs - 1) / inputs;
  return code_in_chunk(codes + (row / 16 * chunks + input / inputs) * bytes, bits, row % 16, input % inputs);
}

// A word of a tile a thread.
__global__ void retile_kernel(const uint8_t* codes, int bits, int k, bool narrow, int64_t words,
                              uint32_t* tiles) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= words) return;
  const int units = narrow ? (k + 63) / 64 : (k + 31) / 32;
  const int word = static_cast<int>(at % 4), lane = static_cast<int>(at / 4 % 32), g = lane / 4, t = lane % 4;
  const int64_t tile = at / 128;
  const int unit = static_cast<int>(tile % units), row = static_cast<int>(tile / units) * 16 + g;
  uint32_t value = 0;
  if (narrow) {
    const int first = unit * 64 + word * 16 + t * 4;
    for (int nibble = 0; nibble < 8; ++nibble) {
      const int i = nibble % 4;
      value |= packed_code(codes, bits, k, row + i % 2 * 8, first + i / 2 * 2 + nibble / 4) << (4 * nibble);
    }
  } else {
    const int first = unit * 32 + word / 2 * 16 + t * 4;
    for (int j = 0; j < 4; ++j)
      value |= packed_code(codes, bits, k, row + word % 2 * 8, first + j) << (8 * j);
  }
  tiles[at] = value;
}

template <typename T>
__global__ void pair_kernel(const T* from, T* to, int64_t n) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at < n) to[at] = from[at / 16 * 16 + at % 2 * 8 + at % 16 / 2];
}

// Byte scales of a panel [1 + groups, 16] to fp16 pairs, [groups, 16] from `first` on of the panel's `all`
// groups.
__global__ void unit_scales_kernel(const uint8_t* from, __half* to, int64_t n, int groups, int first,
                                   int all) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= n) return;
  const int row = static_cast<int>(at % 2 * 8 + at % 16 / 2), group = static_cast<int>(at / 16 % groups);
  const int64_t panel = at / 16 / groups;
  const uint8_t* bytes = from + panel * (1 + groups) * 16;
  const float unit = __uint_as_float(uint32_t{bytes[row]} << 23);
  to[(panel * all + first + group) * 16 + at % 16] =
      __float2half_rn(unit * static_cast<float>(bytes[(1 + group) * 16 + row]));
}

__device__ int groups_of(const Weight& w) { return (w.k + w.group - 1) / w.group; }

__device__ float tile_value(const Weight& w, int row, int input) {
  const bool narrow = w.kind == WeightKind::kQ4;
  const int width = narrow ? 64 : 32, units = (w.k + width - 1) / width;
  const int panel = row / 16, g = row % 8, second = row % 16 / 8;
  const int inside = input % width, t = inside % 16 / 4, j = input % 4, step = inside / 16;
  const uint32_t* tile =
      static_cast<const uint32_t*>(w.data) + ((int64_t{panel} * units + input / width) * 32 + g * 4 + t) * 4;
  const uint32_t code = narrow ? tile[step] >> (4 * (second + j / 2 * 2 + j % 2 * 4)) & 15
                               : tile[step * 2 + second] >> (8 * j) & 255;
  const int64_t at = (int64_t{panel} * groups_of(w) + input / w.group) * 8 + g;
  const float scale = w.float_scales ? static_cast<const float*>(w.scales)[2 * at + second]
                                     : __half2float(static_cast<const __half*>(w.scales)[2 * at + second]);
  int zero = w.middle;
  if (w.zeros) zero = w.wide_zeros ? w.zeros[2 * at + second] : w.zeros[at] >> (4 * second) & 15;
  return scale * static_cast<float>(static_cast<int>(code) - zero);
}

// Four inputs of a row a thread.
__global__ void unpack_kernel(const Weight w, int first, int rows, __half* out, int64_t ld) {
  let_next_start();
  wait_for_previous();
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t quads = ld / 4;
  const int row = static_cast<int>(at / quads), input = static_cast<int>(at % quads) * 4;
  if (row >= rows) return;
  __half values[4];
  for (int j = 0; j < 4; ++j)
    values[j] = __float2half_rn(input + j < w.k ? tile_value(w, first + row, input + j) : 0.0f);
  *reinterpret_cast<uint2*>(out + row * ld + input) = *reinterpret_cast<const uint2*>(values);
}

// The same for weights with nibbles and fp16 scales, 64 inputs of rows g and g + 8 at a time: a warp a tile.
__global__ void unpack_tiles_kernel(const Weight w, int first_panel, int panels, int rows, __half* out,
                                    int64_t ld) {
  let_next_start();
  wait_for_previous();
  const int units = (w.k + 63) / 64, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t tile = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (tile >= int64_t{panels} * units) return;
  const int panel = static_cast<int>(tile / units), unit = static_cast<int>(tile % units);
  const uint4 codes =
      __ldg(static_cast<const uint4*>(w.data) + (int64_t{first_panel + panel} * units + unit) * 32 + lane);
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const int input = unit * 64 + s * 16 + t * 4;
    const int group = min(input / w.group, groups_of(w) - 1);
    const int64_t at = (int64_t{first_panel + panel} * groups_of(w) + group) * 8 + g;
    const float2 scale = __half22float2(__ldg(static_cast<const __half2*>(w.scales) + at));
    const int both = w.zeros ? w.zeros[at] : w.middle * 17;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = panel * 16 + g + 8 * r, zero = both >> (4 * r) & 15;
      __half values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int code = words[s] >> (4 * (r + j / 2 * 2 + j % 2 * 4)) & 15;
        values[j] = __float2half_rn((r == 0 ? scale.x : scale.y) * static_cast<float>(code - zero));
        if (input + j >= w.k) values[j] = __float2half_rn(0.0f);
      }
      if (row < rows && input < ld)
        *reinterpret_cast<uint2*>(out + row * ld + input) = *reinterpret_cast<const uint2*>(values);
    }
  }
}

// The bits of the largest finite magnitude.
__global__ void largest_kernel(const uint16_t* bf16, int64_t count, uint32_t* largest) {
  uint32_t found = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
    const uint32_t magnitude = bf16[i] & 0x7fffu;
    if (magnitude < 0x7f80u) found = max(found, magnitude);
  }
  found = __reduce_max_sync(0xffffffffu, found);
  if (threadIdx.x % 32 == 0) atomicMax(largest, found);
}

__global__ void to_fp16_kernel(uint16_t* numbers, int64_t count, int exponent) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
    const float value = __uint_as_float(uint32_t{numbers[i]} << 16);
    numbers[i] = __half_as_ushort(__float2half_rn(ldexpf(value, exponent)));
  }
}

__global__ void embed_kernel(const Weight w, const int32_t* tokens, float* h) {
  wait_for_previous();
  let_next_start();
  const int token = tokens[blockIdx.y];
  const int input = blockIdx.x * kThreads + threadIdx.x;
  if (input >= w.k) return;
  float value;
  switch (w.kind) {
    case WeightKind::kF16:
      value = __half2float(static_cast<const __half*>(w.data)[token * w.stride + input]) * w.unit;
      break;
    case WeightKind::kF32:
      value = static_cast<const float*>(w.data)[token * w.stride + input];
      break;
    default:
      value = tile_value(w, token, input);
  }
  h[int64_t{blockIdx.y} * w.k + input] = value;
}

}  // namespace

size_t tile_bytes(WeightKind kind, int n, int k) {
  const int width = kind == WeightKind::kQ4 ? 64 : 32;
  return static_cast<size_t>((n + 15) / 16) * static_cast<size_t>((k + width - 1) / width) * 512;
}

void retile(Queue& queue, const uint8_t* codes, int bits, int n, int k, void* tiles) {
  const bool narrow = bits <= 4;
  const int64_t words =
      static_cast<int64_t>(tile_bytes(narrow ? WeightKind::kQ4 : WeightKind::kQ8, n, k) / 4);
  launch(queue, false, blocks_for(words), kThreads, 0, retile_kernel, codes, bits, k, narrow, words,
         static_cast<uint32_t*>(tiles));
}

void pair_rows(Queue& queue, const void* from, void* to, int64_t panel_groups, int bytes_each) {
  const int64_t n = panel_groups * 16;
  const auto run = [&](auto* typed_from, auto* typed_to) {
    using T = std::remove_pointer_t<decltype(typed_to)>;
    launch(queue, false, blocks_for(n), kThreads, 0, pair_kernel<T>, typed_from, typed_to, n);
  };
  if (bytes_each == 1) {
    run(static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to));
  } else if (bytes_each == 2) {
    run(static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to));
  } else {
    expect(bytes_each == 4);
    run(static_cast<const uint32_t*>(from), static_cast<uint32_t*>(to));
  }
}

void unit_scales(Queue& queue, const uint8_t* from, void* to, int64_t panels, int groups, int first,
                 int all) {
  const int64_t n = panels * groups * 16;
  launch(queue, false, blocks_for(n), kThreads, 0, unit_scales_kernel, from, static_cast<__half*>(to), n,
         groups, first, all);
}

void unpack(Queue& queue, const Weight& w, int first, int rows, void* out, int64_t ld) {
  expect(w.packed() && ld % 4 == 0 && first + rows <= w.n);
  if (w.kind == WeightKind::kQ4 && !w.float_scales && !w.wide_zeros && first % 16 == 0) {
    const int panels = (rows + 15) / 16;
    const int64_t tiles = int64_t{panels} * ((w.k + 63) / 64);
    launch(queue, true, static_cast<int>((tiles + kThreads / 32 - 1) / (kThreads / 32)), kThreads, 0,
           unpack_tiles_kernel, w, first / 16, panels, rows, static_cast<__half*>(out), ld);
  } else {
    launch(queue, true, blocks_for(rows * (ld / 4)), kThreads, 0, unpack_kernel, w, first, rows,
           static_cast<__half*>(out), ld);
  }
}

float to_fp16(Queue& queue, void* numbers, int64_t count, void* room) {
  const auto blocks = static_cast<int>(std::min<int64_t>(blocks_for(count), 8 * device().multiprocessors));
  const uint32_t none = 0;
  uint32_t largest = 0;
  queue.to_device(room, &none, sizeof none);
  launch(queue, false, blocks, kThreads, 0, largest_kernel, static_cast<const uint16_t*>(numbers), count,
         static_cast<uint32_t*>(room));
  queue.to_host(&largest, room, sizeof largest);
  queue.wait();
  // The largest comes into [2¹⁴, 2¹⁵).
  const int exponent = largest == 0 ? 0 : 14 - (static_cast<int>(largest >> 7) - 127);
  launch(queue, false, blocks, kThreads, 0, to_fp16_kernel, static_cast<uint16_t*>(numbers), count, exponent);
  return std::ldexp(1.0f, -exponent);
}

void embed(Queue& queue, const Weight& w, const int32_t* tokens, int rows, float* h, bool overlap) {
  launch(queue, overlap, dim3(blocks_for(w.k), rows), kThreads, 0, embed_kernel, w, tokens, h);
}

}  // namespace nibble::cuda
