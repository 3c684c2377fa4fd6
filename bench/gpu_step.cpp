// The kernel of a decoding step (kernels/cuda/step.h) alone, on random weights of a model's true shape: 4
// bits in groups of 64 with zero points, the head at 8 bits. Neither the embedding nor the choice of a token
// is in it.
//
// usage: build/cuda/gpu_step phi-1.5|llama-3.2-1b|qwen2-0.5b [ROWS [POSITION]]
//        (cmake --build --preset cuda; needs a card of compute capability 9.0)
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cuda/step.h"

namespace nibble::cuda {
namespace {

struct Shape {
  int layers, hidden, inner, heads, kv_heads, head_dim, rope_dims, vocab;
  bool parallel;  // block: attention and a plain MLP side by side behind a LayerNorm
};
const std::map<std::string, Shape> kShapes = {
    {"phi-1.5", {24, 2048, 8192, 32, 32, 64, 32, 51200, true}},
    {"llama-3.2-1b", {16, 2048, 8192, 32, 8, 64, 64, 128256, false}},
    {"qwen2-0.5b", {24, 896, 4864, 14, 2, 64, 64, 151936, false}},
};
constexpr int kGroup = 64, kContext = 1024;

std::vector<int32_t> numbered(int count) {
  std::vector<int32_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

class Model {
 public:
  Model(const Shape& shape, int rows, int position) : shape_(shape), rows_(rows), position_(position) {
    for (int layer = 0; layer < shape.layers; ++layer) add_block();
    Gemv head = of_norm();
    head.n_jobs = 1;
    head.jobs[0].weight = weight(WeightKind::kQ8, shape.vocab, shape.hidden);
    head.jobs[0].y = zeros<float>(shape.vocab);
    head.jobs[0].ldy = shape.vocab;
    add(head);
    program_.upload(queue_);
  }

  // Microseconds of a step, `steps` of them one after the other.
  double run(int steps) {
    queue_.wait();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) program_.run(queue_, true);
    queue_.wait();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() /
           steps;
  }

 private:
  template <typename T>
  T* up(const std::vector<T>& values) {
    memory_.emplace_back(values.size() * sizeof(T));
    queue_.to_device(memory_.back().as<void>(), values.data(), values.size() * sizeof(T));
    queue_.wait();
    return memory_.back().as<T>();
  }
  template <typename T>
  T* zeros(int64_t each_row) {
    memory_.emplace_back(static_cast<size_t>(each_row * rows_) * sizeof(T));
    return memory_.back().as<T>();
  }
  Weight weight(WeightKind kind, int n, int k) {
    const bool narrow = kind == WeightKind::kQ4;
    Weight w;
    w.kind = kind;
    w.n = n;
    w.k = k;
    w.group = kGroup;
    w.wide_zeros = !narrow;
    std::vector<uint64_t> codes(tile_bytes(kind, n, k) / sizeof(uint64_t));
    for (uint64_t& code : codes) code = random_.next();
    w.data = up(codes);
    const size_t pairs = static_cast<size_t>((n + 15) / 16) * static_cast<size_t>(w.groups()) * 8;
    w.scales = up(std::vector<uint16_t>(2 * pairs, 0x1400));  // 2⁻¹⁰
    w.zeros = up(std::vector<uint8_t>((narrow ? 1 : 2) * pairs, narrow ? 0x77 : 0x80));
    return w;
  }
  Gemv of_norm() {
    const size_t hidden = static_cast<size_t>(shape_.hidden);
    Gemv call;
    call.rows = rows_;
    call.h = h_;
    call.norm.weight = up(std::vector<float>(hidden, 1.0f));
    if (shape_.parallel) call.norm.bias = up(std::vector<float>(hidden, 0.0f));
    call.norm.eps = 1e-5f;
    return call;
  }
  template <typename... Beside>
  void add(const Gemv& call, Beside... beside) {
    if (!StepProgram::takes(call)) fail("the step's kernel does not take so many rows of this shape");
    program_.add(call, beside...);
  }
  void add_block() {
    const Shape& s = shape_;
    const auto narrow = [&](int n, int k) { return weight(WeightKind::kQ4, n, k); };
    const int query = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    Gemv projections = of_norm();
    float* y = qkv_;
    for (const int n : {query, kv, kv}) {
      GemvJob& job = projections.jobs[projections.n_jobs++];
      job.weight = narrow(n, s.hidden);
      job.y = y;
      job.ldy = query + 2 * kv;
      y += n;
    }
    add(projections);
    Attention attention;
    attention.qkv = qkv_;
    attention.heads = {s.heads, s.kv_heads, s.head_dim, s.rope_dims, turns_};
    attention.places = {positions_, slots_, rows_};
    const int64_t cells = int64_t{kv} * kContext;
    attention.cache = {CacheKind::kF16, zeros<uint16_t>(cells), zeros<uint16_t>(cells), nullptr, nullptr,
                       kContext};
    attention.out = attended_;
    attention.ld = s.parallel ? query + s.inner : query;
    attention.rope = true;
    if (!StepProgram::takes(attention)) fail("the step's kernel does not take this attention");
    program_.add(attention);
    const auto add_product = [&](const Weight& w, const void* x, int64_t ldx) {
      add(gemv_of(w, x, ldx, rows_, 1, true, h_, s.hidden));
    };
    Gemv mlp = s.parallel ? projections : of_norm();
    mlp.n_jobs = 1;
    mlp.jobs[0] = {};
    mlp.jobs[0].weight = narrow(s.inner, s.hidden);
    mlp.jobs[0].finish = s.parallel ? Finish::kGelu : Finish::kSwiGlu;
    if (!s.parallel) mlp.jobs[0].partner = narrow(s.inner, s.hidden);
    mlp.jobs[0].out = s.parallel ? attended_ + query : inner_;
    mlp.jobs[0].ld_out = s.parallel ? query + s.inner : s.inner;
    if (s.parallel) {  // o and down as one weight, as a session has them
      add(mlp, true);
      return add_product(narrow(s.hidden, query + s.inner), attended_, query + s.inner);
    }
    add_product(narrow(s.hidden, query), attended_, query);
    add(mlp);
    add_product(narrow(s.hidden, s.inner), inner_, s.inner);
  }

  Shape shape_;
  int rows_, position_;
  Queue queue_;
  std::vector<DeviceMemory> memory_;
  StepProgram program_;
  Random random_{1};
  float *h_ = zeros<float>(shape_.hidden),
        *qkv_ = zeros<float>((shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim),
        *turns_ = up(std::vector<float>(static_cast<size_t>(kContext * shape_.rope_dims), 0.7f));
  uint16_t *attended_ = zeros<uint16_t>(shape_.heads * shape_.head_dim + shape_.inner),
           *inner_ = zeros<uint16_t>(shape_.inner);
  int32_t *positions_ = up(std::vector<int32_t>(static_cast<size_t>(rows_), position_)),
          *slots_ = up(numbered(rows_));
};

void measure(const std::string& name, int rows, int position) {
  if (const std::string why = problem(); !why.empty()) fail("no GPU can be used: {}", why);
  const auto found = kShapes.find(name);
  if (found == kShapes.end()) fail("a shape of phi-1.5, llama-3.2-1b and qwen2-0.5b, not {}", name);
  if (rows < 1 || position < 0 || position >= kContext)
    fail("ROWS from 1 on, POSITION from 0 to {}", kContext - 1);
  Model model(found->second, rows, position);
  model.run(100);
  std::vector<double> each;
  for (int i = 0; i < 15; ++i) each.push_back(model.run(200));
  std::sort(each.begin(), each.end());
  fmt::print("{}, {} rows, {} keys, {}: {:.1f} µs a step (median of 15 times 200; {:.1f} to {:.1f})\n", name,
             rows, position + 1, device().name, each[7], each.front(), each.back());
}

}  // namespace
}  // namespace nibble::cuda

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fputs("usage: gpu_step phi-1.5|llama-3.2-1b|qwen2-0.5b [ROWS [POSITION]]\n", stderr);
    return 2;
  }
  try {
    nibble::cuda::measure(argv[1], argc > 2 ? std::atoi(argv[2]) : 1, argc > 3 ? std::atoi(argv[3]) : 64);
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_step: {}\n", error.what());
    return 1;
  }
}
