#include "quant/cuda/compute.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "model/rope.h"
#include "quant/grid.h"
#include "tensor/tensor.h"

namespace nibble {
namespace {

constexpr int kParts = cuda::kMaxParts;

size_t size(int64_t n) { return static_cast<size_t>(n); }

template <typename T>
cuda::DeviceMemory& at_least(cuda::DeviceMemory& memory, int64_t count) {
  if (memory.bytes() < size(count) * sizeof(T)) {
    memory = cuda::DeviceMemory();
    memory = cuda::DeviceMemory(size(count) * sizeof(T));
  }
  return memory;
}

template <typename T>
cuda::DeviceMemory uploaded(cuda::Queue& queue, const T* values, size_t count) {
  cuda::DeviceMemory memory(count * sizeof(T));
  queue.to_device(memory.as<void>(), values, count * sizeof(T));
  queue.wait();
  return memory;
}

class CudaSums : public InputSums {
 public:
  CudaSums(cuda::Queue& queue, cuda::MatrixProducts& products, int64_t k, int64_t n, bool gram)
      : queue_(queue), products_(products), k_(k), n_(n), magnitudes_(size(k) * sizeof(double)) {
    if (gram) gram_ = cuda::DeviceMemory(size(k * k) * sizeof(float));
  }

  void add(const Observed& rows, int64_t count) override {
    if (gram_.bytes() > 0) outer(rows.x, k_, rows.x, count, gram_);
    if (rows.reference) {
      at_least<float>(drift_, k_ * k_);
      at_least<float>(difference_, count * k_);
      cuda::subtract(queue_, rows.reference, rows.x, nullptr, count * k_, static_cast<int>(k_),
                     difference_.as<float>());
      outer(difference_.as<float>(), k_, rows.x, count, drift_);
    }
    if (rows.target) {
      at_least<float>(pull_, n_ * k_);
      outer(rows.target, n_, rows.x, count, pull_);
    }
    cuda::add_magnitudes(queue_, rows.x, static_cast<int>(count), static_cast<int>(k_),
                         magnitudes_.as<double>());
  }

  void keep(const float* from, int64_t count, std::vector<float>& to) override {
    to.resize(to.size() + size(count));
    queue_.to_host(to.data() + to.size() - size(count), from, size(count) * sizeof(float));
    queue_.wait();
  }

  void finish(InputStatistics& to, std::vector<double>& magnitudes) override {
    if (gram_.bytes() > 0) cuda::mirror_upper(queue_, gram_.as<float>(), static_cast<int>(k_));
    const auto fetch = [&](const cuda::DeviceMemory& from, auto& values, int64_t count) {
      if (from.bytes() == 0) return;
      values.resize(size(count));
      queue_.to_host(values.data(), from.as<void>(), from.bytes());
      queue_.wait();
    };
    fetch(gram_, to.gram, k_ * k_);
    fetch(drift_, to.drift, k_ * k_);
    fetch(pull_, to.pull, n_ * k_);
    fetch(magnitudes_, magnitudes, k_);
  }

 private:
  // sum[n, k] += aᵀ · b for a [rows, n] and b [rows, k].
  void outer(const float* a, int64_t n, const float* b, int64_t rows, const cuda::DeviceMemory& sum) {
    products_.run(queue_, cuda::Number::kF32, {a, n, true}, {b, k_}, n, k_, rows, 1, 1, sum.as<float>(), k_);
  }

  cuda::Queue& queue_;
  cuda::MatrixProducts& products_;
  int64_t k_, n_;
  cuda::DeviceMemory gram_, drift_, pull_, difference_, magnitudes_;
};

}  // namespace

CudaCompute::CudaCompute(std::shared_ptr<const Model> model, int tokens, ThreadPool& pool)
    : model_(std::move(model)),
      pool_(pool),
      host_(model_,
            {.slots = 1, .context = tokens, .batch_tokens = tokens, .precision = {}, .expect_packed = true},
            pool) {
  const ModelConfig& c = model_->config;
  const std::vector<float> table = rope_table(*model_, tokens);
  rope_ = uploaded(queue_, table.data(), table.size());
  heads_ = {c.n_heads, c.n_kv_heads, c.head_dim, c.rope_dims, rope_.as<float>()};
  std::vector<int32_t> places(size(tokens) * 2);  // positions 0, 1, …; slot 0 for all
  std::iota(places.begin(), places.begin() + tokens, 0);
  places_ = uploaded(queue_, places.data(), places.size());
  const int64_t inner = c.intermediate_size,
                widest = std::max({int64_t{c.hidden_size}, int64_t{c.query_size()}, inner});
  at_least<float>(keys_, int64_t{tokens} * c.kv_size());
  at_least<float>(values_, int64_t{tokens} * c.kv_size());
  at_least<float>(qkv_, int64_t{tokens} * (c.query_size() + 2 * c.kv_size()));
  at_least<float>(gate_up_, int64_t{tokens} * inner * (c.has_gate() ? 2 : 1));
  at_least<uint16_t>(parts_, int64_t{tokens} * kParts * cuda::input_stride(widest));
  partial_ = cuda::DeviceMemory(cuda::attention_scratch(heads_, 1, 1));
  host_rows_.resize(size(int64_t{tokens} * c.hidden_size));
}

float* CudaCompute::allocate(int64_t floats) {
  return memory_.emplace_back(size(floats) * sizeof(float)).as<float>();
}

void CudaCompute::copy(float* to, const float* from, int64_t count) {
  queue_.copy_rows(to, from, size(count) * sizeof(float), size(count) * sizeof(float), 1);
}

const float* CudaCompute::on_card(const std::vector<float>& values) {
  if (values.empty()) return nullptr;
  cuda::DeviceMemory& memory = weights_[&values];
  if (memory.bytes() == 0) memory = uploaded(queue_, values.data(), values.size());
  return memory.as<float>();
}

const float* CudaCompute::on_card(const Linear& linear) {
  cuda::DeviceMemory& memory = weights_[&linear];
  if (memory.bytes() > 0) return memory.as<float>();
  const size_t count = size(linear.n * linear.k);
  host_weight_.resize(count);
  pool_.parallel_for(size(linear.n), 16, [&](size_t begin, size_t end, int) {
    for (size_t row = begin; row < end; ++row) {
      float* to = host_weight_.data() + row * size(linear.k);
      if (linear.packed) {
        dequantize_row(*linear.packed, static_cast<int64_t>(row), to);
        continue;
      }
      const auto* from = static_cast<const std::byte*>(linear.dense.data) +
                         row * size(linear.k) * dtype_size(linear.dense.dtype);
      const std::vector<float> values = to_float({linear.dense.dtype, {1, linear.k}, from});
      std::copy(values.begin(), values.end(), to);
    }
  });
  memory = uploaded(queue_, host_weight_.data(), count);
  return memory.as<float>();
}

void CudaCompute::multiply(const Linear& linear, const float* x, int64_t rows, float* y, int64_t ldy) {
  NIBBLE_CHECK(!linear.order);
  products_.run(queue_, cuda::Number::kF32, {x, linear.k}, {on_card(linear), linear.k, true}, rows, linear.n,
                linear.k, 1, 0, y, ldy);
  if (const float* bias = on_card(linear.bias))
    cuda::add_bias(queue_, bias, static_cast<int>(linear.n), static_cast<int>(rows), y, ldy);
}

void CudaCompute::join(int64_t n, int64_t rows, float* out) {
  cuda::join_parts(queue_, parts_.as<void>(), cuda::input_stride(n), kParts, static_cast<int>(rows),
                   static_cast<int>(n), out);
}

void CudaCompute::embed(const Batch& batch, float* h) {
  host_.check(batch);
  host_.embed(batch, host_rows_.data());
  queue_.to_device(h, host_rows_.data(),
                   batch.tokens.size() * size(model_->config.hidden_size) * sizeof(float));
  queue_.wait();
}

void CudaCompute::norm(const Norm& norm, const float* h, float* x, int64_t rows) {
  const int hidden = model_->config.hidden_size;
  const cuda::NormWeight weight{on_card(norm.weight), on_card(norm.bias), model_->config.norm_eps};
  cuda::norm(queue_, h, hidden, weight, static_cast<int>(rows), kParts, parts_.as<void>(),
             cuda::input_stride(hidden));
  join(hidden, rows, x);
}

void CudaCompute::attention(const Block& block, int, const Batch& batch, const float* x, float* a) {
  const ModelConfig& c = model_->config;
  NIBBLE_CHECK(batch.segments.size() == 1 && batch.segments[0].start == 0);
  const int rows = batch.segments[0].count;
  const int64_t ld = c.query_size() + 2 * c.kv_size();
  float* y = qkv_.as<float>();
  for (const Linear* linear : {&block.q, &block.k, &block.v}) {
    multiply(*linear, x, rows, y, ld);
    y += linear->n;
  }
  const int32_t* positions = places_.as<int32_t>();
  cuda::Attention call;
  call.qkv = qkv_.as<float>();
  call.heads = heads_;
  call.places = {positions, positions + places_.bytes() / sizeof(int32_t) / 2, rows};
  call.cache = {cuda::CacheKind::kF32,  keys_.as<void>(), values_.as<void>(), nullptr, nullptr,
                host_.options().context};
  call.out = parts_.as<void>();
  call.ld = cuda::input_stride(c.query_size());
  call.parts = kParts;
  call.partial = partial_.as<float>();
  cuda::rope_and_store(queue_, qkv_.as<float>(), heads_, call.places, call.cache);
  cuda::attention(queue_, call, true);
  join(c.query_size(), rows, a);
}

void CudaCompute::mlp_inner(const Block& block, const float* x, float* y, int64_t rows) {
  const ModelConfig& c = model_->config;
  const int inner = c.intermediate_size;
  const int64_t ld = cuda::input_stride(inner);
  float* gate_up = gate_up_.as<float>();
  if (c.has_gate()) {
    multiply(block.gate, x, rows, gate_up, 2 * inner);
    multiply(block.up, x, rows, gate_up + inner, 2 * inner);
    cuda::swiglu(queue_, gate_up, inner, static_cast<int>(rows), kParts, parts_.as<void>(), ld);
  } else {
    multiply(block.up, x, rows, gate_up, inner);
    cuda::gelu(queue_, gate_up, inner, static_cast<int>(rows), kParts, parts_.as<void>(), ld);
  }
  join(inner, rows, y);
}

void CudaCompute::linear(const Linear& linear, const float* x, float* y, int64_t rows) {
  multiply(linear, x, rows, y, linear.n);
}

void CudaCompute::add(float* y, const float* x, int64_t count) { cuda::accumulate(queue_, x, count, y); }

void CudaCompute::subtract(const float* a, const float* b, const std::vector<float>& bias, int64_t rows,
                           int64_t width, float* to) {
  cuda::subtract(queue_, a, b, on_card(bias), rows * width, static_cast<int>(width), to);
}

std::unique_ptr<InputSums> CudaCompute::sums(int64_t k, int64_t n, bool gram) {
  return std::make_unique<CudaSums>(queue_, products_, k, n, gram);
}

bool CudaCompute::factor(const InputStatistics& input, std::span<const int64_t> order, double share,
                         std::vector<float>& u) {
  const int64_t k = input.k;
  if (inverse_size_ != k) {
    inverse_.reset();
    inverse_ = std::make_unique<cuda::InverseFactor>(k);
    inverse_size_ = k;
  }
  const double scale = 1.0 / static_cast<double>(input.tokens);
  const double mean = input.mean_diagonal() * scale;
  const std::vector<int32_t> narrow(order.begin(), order.end());
  queue_.to_device(at_least<int32_t>(order_, k).as<void>(), narrow.data(), narrow.size() * sizeof(int32_t));
  queue_.to_device(at_least<float>(gram_, k * k).as<void>(), input.gram.data(),
                   input.gram.size() * sizeof(float));
  gram_on_host_ = input.gram.data();
  at_least<float>(factor_, k * k);
  factor_on_host_ = nullptr;
  if (!inverse_->run(queue_, products_, gram_.as<float>(), order_.as<int32_t>(), scale, share * mean,
                     factor_.as<float>()))
    return false;
  u.resize(size(k * k));
  queue_.to_host(u.data(), factor_.as<void>(), u.size() * sizeof(float));
  queue_.wait();
  factor_on_host_ = u.data();
  return true;
}

QuantizedMatrix CudaCompute::loop(std::span<const float> weight, const std::vector<float>& u,
                                  std::span<const int64_t> order, const PackedFormat& format) {
  const int64_t n = format.n, k = format.k, groups = format.groups();
  const std::vector<int32_t> narrow(order.begin(), order.end());
  cuda::GptqCall call;
  call.n = static_cast<int>(n);
  call.k = static_cast<int>(k);
  call.group = static_cast<int>(format.group());
  call.bits = format.bits;
  call.symmetric = format.symmetric;
  const std::vector<float> units = row_units(weight, format);
  if (format.scale_type == ScaleType::kByte) {
    queue_.to_device(at_least<float>(units_, n).as<void>(), units.data(), units.size() * sizeof(float));
    call.units = units_.as<float>();
  }
  for (int64_t i = 0; i < k; ++i) call.natural = call.natural && order[size(i)] == i;
  if (factor_on_host_ != u.data()) {
    queue_.to_device(at_least<float>(factor_, k * k).as<void>(), u.data(), u.size() * sizeof(float));
    factor_on_host_ = u.data();
  }
  queue_.to_device(at_least<int32_t>(order_, k).as<void>(), narrow.data(), narrow.size() * sizeof(int32_t));
  queue_.to_device(at_least<float>(weight_, n * k).as<void>(), weight.data(), weight.size() * sizeof(float));
  call.order = order_.as<int32_t>();
  call.factor = factor_.as<float>();
  call.weight = weight_.as<float>();
  call.sorted = call.natural ? nullptr : at_least<float>(sorted_, n * k).as<float>();
  call.cost = at_least<float>(cost_, k).as<float>();
  call.errors = at_least<float>(errors_, n * cuda::gptq_block_columns(k, format.group())).as<float>();
  call.codes = at_least<uint8_t>(codes_, n * k).as<uint8_t>();
  call.scales = at_least<float>(scales_, n * groups).as<float>();
  call.zeros = at_least<uint8_t>(zeros_, n * groups).as<uint8_t>();
  cuda::gptq(queue_, products_, call);
  QuantizedMatrix matrix(format);
  queue_.to_host(matrix.codes.data(), call.codes, matrix.codes.size());
  queue_.to_host(matrix.scales.data(), call.scales, matrix.scales.size() * sizeof(float));
  queue_.to_host(matrix.zeros.data(), call.zeros, matrix.zeros.size());
  queue_.wait();
  return matrix;
}

void CudaCompute::refine(std::span<const float> weight, const InputStatistics& input, double damp, int sweeps,
                         QuantizedMatrix& matrix) {
  const PackedFormat& format = matrix.format;
  const int64_t n = format.n, k = format.k, groups = format.groups();
  cuda::RefineCall call;
  call.n = static_cast<int>(n);
  call.k = static_cast<int>(k);
  call.group = static_cast<int>(format.group());
  call.top = format.max_code();
  call.sweeps = sweeps;
  if (gram_on_host_ != input.gram.data()) {
    queue_.to_device(at_least<float>(gram_, k * k).as<void>(), input.gram.data(),
                     input.gram.size() * sizeof(float));
    gram_on_host_ = input.gram.data();
  }
  queue_.to_device(at_least<float>(weight_, n * k).as<void>(), weight.data(), weight.size() * sizeof(float));
  queue_.to_device(at_least<uint8_t>(codes_, n * k).as<void>(), matrix.codes.data(), matrix.codes.size());
  queue_.to_device(at_least<float>(scales_, n * groups).as<void>(), matrix.scales.data(),
                   matrix.scales.size() * sizeof(float));
  queue_.to_device(at_least<uint8_t>(zeros_, n * groups).as<void>(), matrix.zeros.data(),
                   matrix.zeros.size());
  call.gram = gram_.as<float>();
  call.added = static_cast<float>(damp * input.mean_diagonal());
  call.weight = weight_.as<float>();
  call.gradient = at_least<float>(sorted_, n * k).as<float>();
  call.diagonal = at_least<float>(cost_, k).as<float>();
  call.codes = codes_.as<uint8_t>();
  call.scales = scales_.as<float>();
  call.zeros = zeros_.as<uint8_t>();
  cuda::refine(queue_, products_, call);
  queue_.to_host(matrix.codes.data(), call.codes, matrix.codes.size());
  queue_.wait();
}

std::unique_ptr<Compute> open_cuda_compute(std::shared_ptr<const Model> model, int tokens, ThreadPool& pool) {
  return std::make_unique<CudaCompute>(std::move(model), tokens, pool);
}

}  // namespace nibble
