#include "model/linears.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/bf16_rows.h"

namespace nibble {
namespace {

// What tiles make of many rows goes to where it is used in blocks of so many rows and units, which stay in
// the second-level cache. A thread has room for four blocks of two units.
constexpr int64_t kBlockRows = 512, kBlockUnits = 2, kBlocks = kLongPiece / kBlockUnits;
static_assert(kBlockUnits * kUnit == kBf16TileInputs);  // a block is a tile of the next linear's input

// Floats of a row of blocks of units [begin, end).
int64_t block_columns(int64_t begin, int64_t end) {
  return (end - begin + kBlockUnits - 1) / kBlockUnits * kBlockUnits * kUnit;
}

}  // namespace

Linears::Linears(const Model& model, const Precision& precision, int64_t max_rows, int64_t max_found,
                 bool expect_packed, const KernelTable& kernels, ThreadPool& pool)
    : precision_(precision), max_found_(max_found), kernels_(kernels), pool_(pool), dealing_(model, pool) {
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
  const size_t rows = static_cast<size_t>(max_rows);
  const bool tiles = any_packed && precision.int8 && kernels.packed_bf16;
  if (tiles || (any_dense && precision.bf16 && kernels.bf16_pays)) {
    inner_at_ = bf16_values(kernels, max_rows, c.hidden_size);
    const int64_t inner = kernels.bf16_tiles ? bf16_values(kernels, max_rows, c.intermediate_size) : 0;
    bf16_ = AlignedBuffer<uint16_t>(
        static_cast<size_t>(std::max(bf16_values(kernels, max_rows, widest), inner_at_ + inner)));
    if (kernels.bf16_tiles && max_rows >= kManyRows) {
      block_rows_ = std::min(max_rows, kBlockRows);
      block_floats_ = block_rows_ * kBlockUnits * kUnit;
      blocks_ = AlignedBuffer<float>(static_cast<size_t>(pool.size() * kBlocks * block_floats_));
    }
  }
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
         int8_sums_.bytes() + int8_steps_.bytes() + int8_counts_.bytes() + scratch_.bytes() + blocks_.bytes();
}

Linears::Form Linears::form_of(const Linear& linear) const {
  if (linear.packed)
    return {.group = precision_.int8 ? linear.packed->format.group() : 0, .order = linear.order};
  return {.bf16 = linear.dense.dtype == DType::kBF16 && precision_.bf16 && kernels_.bf16_pays};
}

void Linears::expect(int64_t found) {
  NIBBLE_CHECK(found <= max_found_);
  found_ = found;
}

// The rest by tiles, where there are any.
int64_t Linears::rows_by_int8(int64_t rows) const {
  return kernels_.packed_bf16 ? std::min(found_, rows) : rows;
}

int64_t Linears::rows_by_blocks(const Form& form, int64_t rows) const {
  if (!kernels_.bf16_tiles) return 0;
  const int64_t by_tiles = form.group > 0 ? rows - rows_by_int8(rows) : form.bf16 ? rows : 0;
  return by_tiles < kManyRows ? 0 : by_tiles;
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

Linears::Input Linears::convert(const Form& form, const float* x, int64_t rows, int64_t k, int64_t ready) {
  if (form.order) {
    float* ordered = ordered_.data();
    pool_.parallel_for(static_cast<size_t>(rows), 4, [&, x](size_t begin, size_t end, int) {
      for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r) {
        for (int64_t j = 0; j < k; ++j) ordered[r * k + j] = x[r * k + form.order[j]];
      }
    });
    x = ordered;
  }
  const size_t missing = static_cast<size_t>(rows - ready);
  if (form.bf16) {
    pool_.parallel_for(missing, 4, [&](size_t begin, size_t end, int) {
      to_bf16_rows(kernels_, x, k, static_cast<int64_t>(begin), static_cast<int64_t>(end), bf16_.data());
    });
  } else if (form.group > 0) {
    const int64_t by_int8 = rows_by_int8(rows);
    const ActI8View act = int8_view(k, form.group, by_int8);
    pool_.parallel_for(missing, 4, [&](size_t begin, size_t end, int) {
      const int64_t first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
      const int64_t middle = std::clamp(by_int8, first, last);
      for (int64_t r = first; r < middle; ++r) kernels_.quantize_i8(x + r * k, k, act.row(r));
      if (middle < last)
        to_bf16_rows(kernels_, x + by_int8 * k, k, middle - by_int8, last - by_int8, bf16_.data());
    });
  }
  return {x, bf16_.data() + (ready > 0 ? inner_at_ : 0)};
}

void Linears::compute(const LinearCall& call, const Input& in, int64_t rows, int64_t by_blocks, int64_t begin,
                      int64_t end, int thread) {
  const Linear& l = *call.linear;
  const float* bias = l.bias_data();
  const Form form = form_of(l);
  if (form.group > 0) {
    const int64_t by_int8 = rows_by_int8(rows);
    if (by_int8 > 0) {
      kernels_.packed_i8(*l.packed, int8_view(l.k, form.group, by_int8), bias, call.y, l.n, begin, end,
                         scratch_of(thread));
    }
    if (by_int8 < rows - by_blocks)
      by_bf16(l, in.bf16, call.y + by_int8 * l.n, l.n, rows - by_int8, begin, end, thread);
  } else if (l.packed) {
    kernels_.packed_f32(*l.packed, in.x, l.k, bias, call.y, l.n, rows, begin, end, scratch_of(thread));
  } else if (form.bf16) {
    if (by_blocks < rows) by_bf16(l, in.bf16, call.y, l.n, rows, begin, end, thread);
  } else {
    const auto dense = l.dense.dtype == DType::kF32    ? kernels_.dense_f32
                       : l.dense.dtype == DType::kBF16 ? kernels_.dense_bf16
                                                       : kernels_.dense_f16;
    dense(l.dense, in.x, l.k, bias, call.y, l.n, rows, begin * kUnit, std::min(l.n, end * kUnit));
  }
}

void Linears::by_bf16(const Linear& l, const uint16_t* x, float* y, int64_t ldy, int64_t rows, int64_t begin,
                      int64_t end, int thread) {
  if (l.packed) {
    kernels_.packed_bf16(*l.packed, x, l.bias_data(), y, ldy, rows, begin, end, scratch_of(thread));
  } else {
    kernels_.dense_bf16_bf16(l.dense, x, l.bias_data(), y, ldy, rows, begin * kUnit,
                             std::min(l.n, end * kUnit));
  }
}

template <typename Body>
void Linears::for_blocks(int64_t by_blocks, int64_t begin, int64_t end, int64_t units, const Body& body) {
  for (int64_t unit = begin; unit < end; unit += units) {
    for (int64_t row = 0; row < by_blocks; row += block_rows_)
      body(row, std::min(block_rows_, by_blocks - row), unit, std::min(end, unit + units));
  }
}

float* Linears::make_blocks(const Linear& l, const uint16_t* x, int64_t row, int64_t rows, int64_t begin,
                            int64_t end, int thread, int which) {
  float* block = blocks_.data() + (thread * kBlocks + which) * block_floats_;
  const int64_t columns = block_columns(begin, end);
  if (end * kUnit > l.n || (end - begin) * kUnit < columns) std::fill(block, block + rows * columns, 0.0f);
  by_bf16(l, x + bf16_values(kernels_, row, l.k), block - begin * kUnit, columns, rows, begin, end, thread);
  return block;
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
    const Input input = convert(form, x, rows, calls[first].linear->k);
    dealing_.deal(*calls[first].linear, rows, units, [&](int64_t begin, int64_t end, int thread) {
      int64_t at = 0;
      for (size_t i = first; i < last && at < end; ++i) {
        const int64_t here = units_of(*calls[i].linear);
        const int64_t from = std::max<int64_t>(begin - at, 0), to = std::min(end - at, here);
        if (from < to) compute(calls[i], input, rows, 0, from, to, thread);
        at += here;
      }
    });
    first = last;
  }
}

void Linears::run_added(const Linear& linear, const float* x, int64_t rows, float* y, float* sum) {
  add(linear, convert(form_of(linear), x, rows, linear.k), rows, y, sum);
}

void Linears::add(const Linear& l, const Input& in, int64_t rows, float* y, float* sum) {
  const int64_t by_blocks = rows_by_blocks(form_of(l), rows), in_y = rows - by_blocks;
  dealing_.deal(l, rows, units_of(l), [&](int64_t begin, int64_t end, int thread) {
    compute({&l, y}, in, rows, by_blocks, begin, end, thread);
    const int64_t first = begin * kUnit, columns = std::min(l.n, end * kUnit) - first;
    for (int64_t r = 0; r < in_y; ++r) kernels_.add(sum + r * l.n + first, y + r * l.n + first, columns);
    // Several at a time: x, of as many inputs as there are, is read again for each.
    for_blocks(by_blocks, begin, end, kLongPiece, [&](int64_t row, int64_t here, int64_t from, int64_t to) {
      const float* block = make_blocks(l, in.bf16, row, here, from, to, thread, 0);
      const int64_t width = std::min(l.n, to * kUnit) - from * kUnit;
      float* out = sum + (in_y + row) * l.n + from * kUnit;
      for (int64_t r = 0; r < here; ++r, out += l.n, block += block_columns(from, to))
        kernels_.add(out, block, width);
    });
  });
}

void Linears::run_mlp(const Block& b, const float* x, int64_t rows, float* gate, float* up, float* down,
                      float* sum) {
  const Form form = form_of(b.up), down_form = form_of(b.down);
  const int64_t by_blocks = rows_by_blocks(form, rows);
  const bool alike = (!b.gate.present() || form_of(b.gate) == form) && !down_form.order &&
                     rows_by_blocks(down_form, rows) == by_blocks;
  const int64_t ready = alike ? by_blocks : 0;
  inner(b, x, rows, ready, gate, up);
  add(b.down, convert(down_form, up, rows, b.down.k, ready), rows, down, sum);
}

void Linears::inner(const Block& b, const float* x, int64_t rows, int64_t by_blocks, float* gate, float* up) {
  const bool gated = b.gate.present();
  NIBBLE_CHECK(!gated || (b.gate.n == b.up.n && b.gate.k == b.up.k));
  const int64_t n = b.up.n, in_floats = rows - by_blocks;
  const Form form = form_of(b.up);
  const bool together = !gated || form_of(b.gate) == form;
  const LinearCall calls[] = {{&b.gate, gate}, {&b.up, up}};
  Input in{};
  if (together) {
    in = convert(form, x, rows, b.up.k);
  } else {
    run(calls, x, rows);
  }
  dealing_.deal(gated ? b.gate : b.up, rows, units_of(b.up), [&](int64_t begin, int64_t end, int thread) {
    if (together) {
      for (const LinearCall& call : std::span(calls).subspan(gated ? 0 : 1))
        compute(call, in, rows, by_blocks, begin, end, thread);
    }
    const int64_t first = begin * kUnit, columns = std::min(n, end * kUnit) - first;
    for (int64_t r = 0; r < in_floats; ++r)
      activate(gated ? gate + r * n + first : nullptr, up + r * n + first, columns);
    for_blocks(by_blocks, begin, end, kBlockUnits, [&](int64_t row, int64_t here, int64_t from, int64_t to) {
      const float* g = gated ? make_blocks(b.gate, in.bf16, row, here, from, to, thread, 1) : nullptr;
      float* u = make_blocks(b.up, in.bf16, row, here, from, to, thread, 0);
      activate(g, u, here * kBf16TileInputs);
      uint16_t* tile =
          bf16_.data() + inner_at_ + bf16_values(kernels_, row, n) + from * kUnit * kBf16TileRows;
      for (int64_t r = 0; r < here; r += kBf16TileRows, tile += bf16_values(kernels_, kBf16TileRows, n)) {
        kernels_.to_bf16(u + r * kBf16TileInputs, tile, std::min(kBf16TileRows, here - r) * kBf16TileInputs);
      }
    });
  });
}

void Linears::activate(const float* gate, float* up, int64_t n) const {
  if (gate) {
    kernels_.silu_mul(gate, up, up, n);
  } else {
    kernels_.gelu_new(up, up, n);
  }
}

}  // namespace nibble
