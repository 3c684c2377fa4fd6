// The operations of a forward pass on the card. Every pointer is to the card's memory unless it says
// otherwise.
//
// Inputs of linears are fp16, in `parts` numbers each: value = kInputUnit · Σ part p · kPartStep⁻ᵖ. One is
// the rule; two, where float32 is asked for, hold 22 of its 24 bits. Values of 2²⁰ and more become infinite.
// They lie as [row][part][ld] with ld a multiple of 64 and zeros behind the last input. Sums are float32.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble::cuda {

inline constexpr float kInputUnit = 16, kPartStep = 2048;
inline constexpr int kMaxParts = 2;
inline constexpr int kMaxColumns = 16;  // rows · parts that one pass of gemv() takes

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr int64_t input_stride(int64_t k) { return round_up(k, 64); }

enum class WeightKind {
  kF16,  // [n, stride], in units
  kQ4,   // codes of up to 4 bits, in tiles of 16 rows × 64 inputs (pack.cu)
  kQ8,   // codes of up to 8 bits, in tiles of 16 rows × 32 inputs
  kF32,  // [n, stride]
};

// A linear's weight [n, k].
struct Weight {
  WeightKind kind = WeightKind::kF16;
  int n = 0, k = 0;
  const void* data = nullptr;
  int64_t stride = 0;              // dense: elements from row to row, a multiple of 8, zeros behind k
  float unit = 1;                  // fp16: what the numbers count, a power of two
  const void* scales = nullptr;    // [panels, groups, 8] of the pair of rows r and r + 8: fp16 or float
  const uint8_t* zeros = nullptr;  // [panels, groups, 8] likewise: two nibbles, wide: two bytes; null: middle
  int group = 0, middle = 0;       // inputs a group; the zero point of symmetric codes
  bool float_scales = false, wide_zeros = false;
  const int32_t* order = nullptr;  // [k]: column j multiplies input order[j]; null: as they come
  const float* bias = nullptr;     // [n] or null
  bool packed() const { return kind == WeightKind::kQ4 || kind == WeightKind::kQ8; }
  bool has_gemv() const { return kind == WeightKind::kF16 || packed(); }
  int groups() const { return (k + group - 1) / group; }
};

struct NormWeight {
  const float* weight = nullptr;
  const float* bias = nullptr;  // LayerNorm's; null: RMSNorm
  float eps = 0;
};

enum class Finish {
  kStore,   // y = w·x + bias
  kAdd,     // y += w·x + bias
  kGelu,    // out = gelu_new(w·x + bias), as parts
  kSwiGlu,  // out = silu(w·x + bias) ∘ (partner·x + its bias), as parts
};

// One weight of a gemv() and what becomes of its product.
struct GemvJob {
  Weight weight, partner;  // partner: of kSwiGlu, the same form and size
  Finish finish = Finish::kStore;
  float* y = nullptr;  // [rows, ldy], or null: what it makes is an input of linears
  int64_t ldy = 0;
  void* out = nullptr;  // [rows, parts, ld_out]
  int64_t ld_out = 0;
  int first_item = 0;  // filled in by gemv()
};

inline constexpr int kMaxJobs = 4;

// What later kernels will read, asked into the card's cache while memory has little to do: a hint; 256-byte
// aligned, a multiple of 16 bytes.
struct Ahead {
  const void* from = nullptr;
  int64_t bytes = 0;
};

// Products of few rows with weights that are read once: up to kMaxColumns rows · parts.
struct Gemv {
  GemvJob jobs[kMaxJobs];  // the same kind, k, group and order; one with a partner stands alone
  int n_jobs = 0;
  int rows = 0, parts = 1;
  const void* x = nullptr;  // [rows, parts, ldx], or null: the norm of
  int64_t ldx = 0;
  const float* h = nullptr;  // [rows, k] float32
  NormWeight norm;
  Ahead ahead;
};
void gemv(Queue& queue, Gemv call, bool overlap);
// y[rows, ldy] (+)= x · wᵀ as such a call.
Gemv gemv_of(const Weight& weight, const void* x, int64_t ldx, int rows, int parts, bool add, float* y,
             int64_t ldy);
// Whether the two can be jobs of one gemv().
bool same_form(const Weight& a, const Weight& b);
// Rows that one gemv() takes with inputs of this width; 0: not even one.
int gemv_rows(int k, int parts);

// y[rows, ldy] (+)= x · wᵀ for any number of rows, with every kind of weight; `scratch` holds weights that
// are unpacked for the matrix units (scratch_bytes). Bias is added too.
class Linears {
 public:
  Linears();
  ~Linears();
  Linears(const Linears&) = delete;
  Linears& operator=(const Linears&) = delete;

  // What run() wants of scratch for this weight and as many rows; 0 for few rows.
  static size_t scratch_bytes(const Weight& weight, int rows, int parts);
  size_t workspace_bytes() const;
  void run(Queue& queue, const Weight& weight, const void* x, int64_t ldx, int rows, int parts, bool add,
           float* y, int64_t ldy, void* scratch, size_t scratch_size, const Ahead& ahead = {});

 private:
  struct Blas;
  Blas* blas_;
};

// y[row, i] += bias[i]
void add_bias(Queue& queue, const float* bias, int n, int rows, float* y, int64_t ldy);

// Layout of packed weights (pack.cu). `codes` as in tensor/packed.h with `bits` of 2, 3, 4, 6 or 8.
void retile(Queue& queue, const uint8_t* codes, int bits, int n, int k, void* tiles);
size_t tile_bytes(WeightKind kind, int n, int k);
// [panels, groups, 16] to pairs of rows r and r + 8; bytes_each of 1, 2 or 4.
void pair_rows(Queue& queue, const void* from, void* to, int64_t panel_groups, int bytes_each);
// Scales of bytes [panels, 1 + groups, 16] (tensor/packed.h) to such pairs in fp16, which holds them exactly:
// the groups from `first` on of panels that have `all`.
void unit_scales(Queue& queue, const uint8_t* from, void* to, int64_t panels, int groups, int first, int all);
// out[rows, ld] fp16 = rows first … of the packed weight.
void unpack(Queue& queue, const Weight& weight, int first, int rows, void* out, int64_t ld);

// bf16 numbers become fp16 in their place, in the unit that is returned. Exact down to 2⁻³¹ of the largest,
// below that to 2⁻³⁹ of it. `room` of 4 bytes; waits.
float to_fp16(Queue& queue, void* numbers, int64_t count, void* room);

// h[rows, k] = rows tokens[i] of the weight.
void embed(Queue& queue, const Weight& weight, const int32_t* tokens, int rows, float* h, bool overlap);
// out (parts) = norm of h[rows, n].
void norm(Queue& queue, const float* h, int n, const NormWeight& norm, int rows, int parts, void* out,
          int64_t ld);
// out (parts) = silu(gate) ∘ up, of gate_up[rows, 2n]; or gelu_new of up[rows, n].
void swiglu(Queue& queue, const float* gate_up, int n, int rows, int parts, void* out, int64_t ld);
void gelu(Queue& queue, const float* up, int n, int rows, int parts, void* out, int64_t ld);

enum class CacheKind { kF32, kF16, kI8 };

// Keys and values of one layer: [slot][kv head][context][head_dim].
struct Cache {
  CacheKind kind = CacheKind::kF16;
  void *keys = nullptr, *values = nullptr;
  float *key_scales = nullptr, *value_scales = nullptr;  // int8: [slot][kv head][context]
  int context = 0;
};

struct Heads {
  int n_heads = 0, n_kv_heads = 0, head_dim = 0, rope_dims = 0;
  const float* rope = nullptr;  // [context][rope_dims/2][cos, sin]
};

// Rows with their places in the cache.
struct Places {
  const int32_t *positions = nullptr, *slots = nullptr;
  int rows = 0;
};

// Rotates q and k of qkv [rows, (n_heads + 2·n_kv_heads)·head_dim], multiplies q by head_dim^−½, and writes k
// and v into the cache.
void rope_and_store(Queue& queue, float* qkv, const Heads& heads, const Places& places, const Cache& cache);

inline constexpr int kFewKeys = 128;

// Attention of every row over positions 0 … its own.
struct Attention {
  const float* qkv = nullptr;
  Heads heads;
  Places places;
  Cache cache;
  void* out = nullptr;  // parts, [rows, parts, ld]
  int64_t ld = 0;
  int parts = 1;
  int splits = 1;            // blocks that share a row's keys
  bool few_keys = false;     // kFewKeys of every row at most
  bool rope = false;         // qkv as the projections left it: rotates, and writes the cache too. fp16 caches
  float* partial = nullptr;  // attention_scratch(): zeroed once, left so
};
size_t attention_scratch(const Heads& heads, int rows, int splits);
void attention(Queue& queue, const Attention& call, bool overlap);

// keys[row]: the largest of logits[rows, vocab] and its index, for best_of() and advance(), which take it and
// leave the 0 that they must be before.
void argmax(Queue& queue, const float* logits, int64_t vocab, int rows, uint64_t* keys, bool overlap);
// best[row]: the index, the lowest of equals; 0 where all are NaN.
void best_of(Queue& queue, uint64_t* keys, int rows, int32_t* best);
struct Question {
  int32_t row, token;
};
struct Answer {
  double loglik;
  int32_t is_greedy;
  int32_t is_broken;  // NaN among the logits
};
void score(Queue& queue, const float* logits, int64_t vocab, const Question* questions, int count,
           Answer* answers);

// Where a decoding loop stands: every row's token, place and the tokens found so far.
struct Loop {
  int32_t *tokens = nullptr, *positions = nullptr;
  uint64_t* keys = nullptr;   // of argmax()
  int32_t* step = nullptr;    // one number
  int32_t* found = nullptr;   // [steps, rows]
  uint64_t* times = nullptr;  // [steps], nanoseconds of the card's clock
  int rows = 0;
};
// found[step] = tokens = the best, positions + 1, step + 1.
void advance(Queue& queue, const Loop& loop, bool overlap);

}  // namespace nibble::cuda
