#include "model/dealing.h"

#include <span>

namespace nibble {
namespace {

// A thread that was held up leaves its last pieces to others.
constexpr int64_t kPiecesPerThread = 4, kPiecesOfManyRows = 16;

// Weights of units [begin, end); of packed ones the codes.
std::span<const char> bytes_of(const Linear& linear, int64_t begin, int64_t end) {
  const bool packed = linear.packed.has_value();
  const void* data = packed ? linear.packed->codes : linear.dense.data;
  const int64_t unit = packed ? linear.packed->format.code_bytes() / linear.packed->format.panels()
                              : kUnit * linear.k * static_cast<int64_t>(dtype_size(linear.dense.dtype));
  return {static_cast<const char*>(data) + begin * unit, static_cast<size_t>((end - begin) * unit)};
}

}  // namespace

Dealing::Dealing(const Model& model, ThreadPool& pool) : pool_(pool) {
  std::vector<std::vector<const Linear*>> passes;
  int64_t most_units = units_of(model.head);
  for (const Block& b : model.blocks) {
    passes.push_back({&b.q, &b.k, &b.v});
    passes.push_back({&b.o});
    passes.push_back({b.gate.present() ? &b.gate : &b.up});
    passes.push_back({&b.down});
    int64_t units = 0;
    for (const Linear* l : b.linears()) units += units_of(*l);
    most_units = std::max(most_units, units);
  }
  passes.push_back({&model.head});
  for (size_t i = 0; i < passes.size(); ++i) next_[passes[i].front()] = passes[(i + 1) % passes.size()];
  cuts_.reserve(static_cast<size_t>(std::max<int64_t>(most_units / 2, pool.size() * kPiecesPerThread) + 2));
}

void Dealing::announce_next(const Linear& first, int64_t rows) {
  const auto found = rows <= kReadingRows ? next_.find(&first) : next_.end();
  std::span<const Linear* const> next;
  if (found != next_.end()) next = found->second;
  int64_t units = 0;
  for (const Linear* l : next) units += units_of(*l);
  const int64_t pieces = few_rows_pieces(units);
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

// With many rows pieces take long, so they become shorter towards the end, that threads end together: down to
// two units, since tiles are at their best with pairs of panels.
void Dealing::cut(int64_t rows, int64_t units) {
  cuts_.assign(1, 0);
  if (rows < kManyRows) {
    const int64_t pieces = few_rows_pieces(units);
    for (int64_t i = 1; i <= pieces; ++i) cuts_.push_back(units * i / pieces);
    return;
  }
  const int64_t longest = std::max(kLongPiece, units / (pool_.size() * kPiecesOfManyRows));
  while (cuts_.back() < units) {
    const int64_t left = units - cuts_.back();
    const int64_t piece = std::clamp<int64_t>(left / (2 * pool_.size()), 2, longest) / 2 * 2;
    cuts_.push_back(cuts_.back() + std::min(piece, left));
  }
}

int64_t Dealing::few_rows_pieces(int64_t units) const {
  return std::min<int64_t>(units, pool_.size() * kPiecesPerThread);
}

}  // namespace nibble
