#include "model/linears.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/bf16_rows.h"

namespace nibble {
namespace {

constexpr int64_t kUnit = kPanelRows;  // output rows that are dealt out together
// A thread that was held up leaves its last pieces to others. With many rows a piece takes long enough for
// more of them, of two units, since tiles are at their best with pairs of panels.
constexpr int64_t kPiecesPerThread = 4, kManyRows = 32, kPiecesOfManyRows = 16;

int64_t units_of(const Linear& linear) { return (linear.n + kUnit - 1) / kUnit; }

// Weights of units [begin, end); of packed ones the codes.
std::span<const char> bytes_of(const Linear& linear, int64_t begin, int64_t end) {
  const bool packed = linear.packed.has_value();
  const void* data = packed ? linear.packed->codes : linear.dense.data;
  const int64_t unit = packed ? linear.packed->format.code_bytes() / linear.packed->format.panels()
                              : kUnit * linear.k * static_cast<int64_t>(dtype_size(linear.dense.dtype));
  return {static_cast<const char*>(data) + begin * unit, static_cast<size_t>((end - begin) * unit)};
}

}  // namespace

Linears::Linears(const Model& model, const Precision& precision, int64_t max_rows, int64_t max_found,
                 bool expect_packed, const KernelTable& kernels, ThreadPool& pool)
    : precision_(precision), max_found_(max_found), kernels_(kernels), pool_(pool) {
  const ModelConfig& c = model.config;
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, c.query_size()});
  bool any_packed = expect_packed || model.head.packed, any_dense = !model.head.packed;
  bool any_order = model.head.order != nullptr;
  // Of int8 activations and of a weight's groups, in a row.
  int64_t most_blocks = expect_packed ? act_i8_stride(widest) / kActSegment : 1;
  const auto count_blocks = [&](const Linear& l) {
    if (!l.packed) return;
    const int64_t block = act_i8_block(l.packed->format.group(), l.k);
    most_blocks = std::max(most_blocks, (act_i8_stride(l.k) + block - 1) / block);
  };
  for (const Linear* l : model.linears()) {
    (l->packed ? any_packed : any_dense) = true;
    any_order = any_order || l->order;
    count_blocks(*l);
  }
  count_blocks(model.head);
  std::vector<std::vector<const Linear*>> passes;
  for (const Block& b : model.blocks) {
    passes.push_back({&b.q, &b.k, &b.v});
    passes.push_back({&b.o});
    passes.push_back({b.gate.present() ? &b.gate : &b.up});
    passes.push_back({&b.down});
  }
  passes.push_back({&model.head});
  for (size_t i = 0; i < passes.size(); ++i) next_[passes[i].front()] = passes[(i + 1) % passes.size()];

  const size_t rows = static_cast<size_t>(max_rows);
  const bool tiles = any_packed && precision.int8 && kernels.packed_bf16;
  if (tiles || (any_dense && precision.bf16 && kernels.dense_bf16_bf16))
    bf16_ = AlignedBuffer<uint16_t>(static_cast<size_t>(bf16_values(kernels, max_rows, widest)));
  if (any_order) ordered_ = AlignedBuffer<float>(rows * static_cast<size_t>(widest));
  if (any_packed && precision.int8) {
    const size_t by_int8 = tiles ? static_cast<size_t>(max_found) : rows;
    const size_t codes = by_int8 * static_cast<size_t>(act_i8_stride(widest)), segments = codes / kActSegment,
                 blocks = by_int8 * static_cast<size_t>(most_blocks);
    int8_ = AlignedBuffer<int8_t>(codes);
    if (kernels.int8_steps) {
      int8_steps_ = AlignedBuffer<int32_t>(segments);
      int8_units_ = AlignedBuffer<float>(blocks);
      int8_counts_ = AlignedBuffer<int32_t>(blocks);
    } else {
      int8_scales_ = AlignedBuffer<float>(segments);
      int8_sums_ = AlignedBuffer<float>(blocks);
    }
  }
  if (any_packed) {
    const bool factors_alone = precision.int8 && !tiles;
    scratch_per_thread_ =
        static_cast<size_t>(factors_alone ? packed_factors(most_blocks) : packed_scratch(widest));
    scratch_ = AlignedBuffer<float>(scratch_per_thread_ * static_cast<size_t>(pool.size()));
  }
}

uint64_t Linears::bytes() const {
  return bf16_.bytes() + ordered_.bytes() + int8_.bytes() + int8_scales_.bytes() + int8_units_.bytes() +
         int8_sums_.bytes() + int8_steps_.bytes() + int8_counts_.bytes() + scratch_.bytes();
}

Linears::Form Linears::form_of(const Linear& linear) const {
  if (linear.packed)
    return {.group = precision_.int8 ? linear.packed->format.group() : 0, .order = linear.order};
  return {.bf16 = linear.dense.dtype == DType::kBF16 && precision_.bf16 && kernels_.dense_bf16_bf16};
}

void Linears::expect(int64_t found) {
  NIBBLE_CHECK(found <= max_found_);
  found_ = found;
}

// The rest by tiles, where there are any.
int64_t Linears::rows_by_int8(int64_t rows) const {
  return kernels_.packed_bf16 ? std::min(found_, rows) : rows;
}

ActI8View Linears::int8_view(int64_t k, int64_t group, int64_t rows) {
  return {.codes = int8_.data(),
          .scales = int8_scales_.data(),
          .steps = int8_steps_.data(),
          .units = int8_units_.data(),
          .sums = int8_sums_.data(),
          .counts = int8_counts_.data(),
          .rows = rows,
          .stride = act_i8_stride(k),
          .block = act_i8_block(group, k)};
}

const float* Linears::convert(const Form& form, const float* x, int64_t rows, int64_t k) {
  if (form.order) {
    float* ordered = ordered_.data();
    pool_.parallel_for(static_cast<size_t>(rows), 4, [&, x](size_t begin, size_t end, int) {
      for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r) {
        for (int64_t j = 0; j < k; ++j) ordered[r * k + j] = x[r * k + form.order[j]];
      }
    });
    x = ordered;
  }
  if (form.bf16) {
    pool_.parallel_for(static_cast<size_t>(rows), 4, [&](size_t begin, size_t end, int) {
      to_bf16_rows(kernels_, x, k, static_cast<int64_t>(begin), static_cast<int64_t>(end), bf16_.data());
    });
  } else if (form.group > 0) {
    const int64_t by_int8 = rows_by_int8(rows);
    const ActI8View act = int8_view(k, form.group, by_int8);
    pool_.parallel_for(static_cast<size_t>(rows), 4, [&](size_t begin, size_t end, int) {
      const int64_t first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
      const int64_t middle = std::clamp(by_int8, first, last);
      for (int64_t r = first; r < middle; ++r) kernels_.quantize_i8(x + r * k, k, act.row(r));
      if (middle < last)
        to_bf16_rows(kernels_, x + by_int8 * k, k, middle - by_int8, last - by_int8, bf16_.data());
    });
  }
  return x;
}

void Linears::compute(const LinearCall& call, const float* x, int64_t rows, int64_t begin, int64_t end,
                      int thread) {
  const Linear& l = *call.linear;
  const float* bias = l.bias_data();
  const Form form = form_of(l);
  float* scratch = scratch_.data() + static_cast<size_t>(thread) * scratch_per_thread_;
  if (form.group > 0) {
    const int64_t by_int8 = rows_by_int8(rows);
    if (by_int8 > 0) {
      kernels_.packed_i8(*l.packed, int8_view(l.k, form.group, by_int8), bias, call.y, l.n, begin, end,
                         scratch);
    }
    if (by_int8 < rows) {
      kernels_.packed_bf16(*l.packed, bf16_.data(), bias, call.y + by_int8 * l.n, l.n, rows - by_int8, begin,
                           end, scratch);
    }
  } else if (l.packed) {
    kernels_.packed_f32(*l.packed, x, l.k, bias, call.y, l.n, rows, begin, end, scratch);
  } else {
    const int64_t first = begin * kUnit, last = std::min(l.n, end * kUnit);
    if (form.bf16) {
      kernels_.dense_bf16_bf16(l.dense, bf16_.data(), bias, call.y, l.n, rows, first, last);
    } else {
      const auto dense = l.dense.dtype == DType::kF32    ? kernels_.dense_f32
                         : l.dense.dtype == DType::kBF16 ? kernels_.dense_bf16
                                                         : kernels_.dense_f16;
      dense(l.dense, x, l.k, bias, call.y, l.n, rows, first, last);
    }
  }
}

void Linears::announce_next(const Linear& first, int64_t rows) {
  const auto found = rows <= kReadingRows ? next_.find(&first) : next_.end();
  std::span<const Linear* const> next;
  if (found != next_.end()) next = found->second;
  int64_t units = 0;
  for (const Linear* l : next) units += units_of(*l);
  const int64_t pieces = pieces_of(units, rows);
  for (int thread = 1; thread < pool_.size(); ++thread) {
    std::span<const char> bytes;
    if (thread < pieces) {  // its first piece, as parallel_each deals them out
      int64_t begin = units * thread / pieces, end = units * (thread + 1) / pieces;
      for (const Linear* l : next) {
        const int64_t here = units_of(*l);
        if (begin < here) {
          bytes = bytes_of(*l, begin, std::min(end, here));
          break;
        }
        begin -= here, end -= here;
      }
    }
    pool_.prefetch_while_idle(thread, bytes.data(), bytes.size());
  }
}

template <typename Body>
void Linears::deal(const Linear& first, int64_t rows, int64_t units, const Body& body) {
  if (pool_.size() == 1) return body(0, units, 0);
  announce_next(first, rows);
  const int64_t pieces = pieces_of(units, rows), even = rows < kManyRows ? 1 : 2;
  const auto cut = [&](int64_t piece) {
    return piece == pieces ? units : units * piece / pieces / even * even;
  };
  pool_.parallel_each(static_cast<size_t>(pieces), [&](size_t piece, int thread) {
    const int64_t i = static_cast<int64_t>(piece);
    body(cut(i), cut(i + 1), thread);
  });
}

int64_t Linears::pieces_of(int64_t units, int64_t rows) const {
  if (rows < kManyRows) return std::min<int64_t>(units, pool_.size() * kPiecesPerThread);
  return std::min<int64_t>((units + 1) / 2, pool_.size() * kPiecesOfManyRows);
}

void Linears::run(std::span<const LinearCall> calls, const float* x, int64_t rows) {
  for (size_t first = 0; first < calls.size();) {
    const Form form = form_of(*calls[first].linear);
    int64_t units = 0;
    size_t last = first;
    while (last < calls.size() && form_of(*calls[last].linear) == form) {
      NIBBLE_CHECK(calls[last].linear->k == calls[first].linear->k);
      units += units_of(*calls[last++].linear);
    }
    const float* input = convert(form, x, rows, calls[first].linear->k);
    deal(*calls[first].linear, rows, units, [&, input](int64_t begin, int64_t end, int thread) {
      int64_t at = 0;
      for (size_t i = first; i < last && at < end; ++i) {
        const int64_t here = units_of(*calls[i].linear);
        const int64_t from = std::max<int64_t>(begin - at, 0), to = std::min(end - at, here);
        if (from < to) compute(calls[i], input, rows, from, to, thread);
        at += here;
      }
    });
    first = last;
  }
}

void Linears::run_gated(const Linear& gate, const Linear& up, const float* x, int64_t rows, float* g,
                        float* y) {
  NIBBLE_CHECK(gate.n == up.n && gate.k == up.k);
  const int64_t n = up.n;
  const LinearCall calls[] = {{&gate, g}, {&up, y}};
  const bool together = form_of(gate) == form_of(up);
  if (together) {
    x = convert(form_of(up), x, rows, up.k);
  } else {
    run(calls, x, rows);
  }
  deal(gate, rows, units_of(up), [&](int64_t begin, int64_t end, int thread) {
    if (together) {
      for (const LinearCall& call : calls) compute(call, x, rows, begin, end, thread);
    }
    const int64_t first = begin * kUnit, last = std::min(n, end * kUnit);
    for (int64_t r = 0; r < rows; ++r)
      kernels_.silu_mul(g + r * n + first, y + r * n + first, y + r * n + first, last - first);
  });
}

void Linears::run_gelu(const Linear& up, const float* x, int64_t rows, float* y) {
  const int64_t n = up.n;
  x = convert(form_of(up), x, rows, up.k);
  deal(up, rows, units_of(up), [&](int64_t begin, int64_t end, int thread) {
    compute({&up, y}, x, rows, begin, end, thread);
    const int64_t first = begin * kUnit, last = std::min(n, end * kUnit);
    for (int64_t r = 0; r < rows; ++r) kernels_.gelu_new(y + r * n + first, y + r * n + first, last - first);
  });
}

}  // namespace nibble
