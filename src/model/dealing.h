// How the output rows of linears are dealt out to the threads of a pool.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "model/model.h"

namespace nibble {

constexpr int64_t kUnit = kPanelRows;  // output rows that are dealt out together
constexpr int64_t kManyRows = 32;      // of input
constexpr int64_t kLongPiece = 8;      // units of a pass of few, with many rows

inline int64_t units_of(const Linear& linear) { return (linear.n + kUnit - 1) / kUnit; }

class Dealing {
 public:
  Dealing(const Model& model, ThreadPool& pool);

  // body(begin, end, thread) over [0, units) of the pass that begins with `first`. With many rows pieces
  // begin at even units.
  template <typename Body>
  void deal(const Linear& first, int64_t rows, int64_t units, const Body& body) {
    if (pool_.size() == 1) return body(0, units, 0);
    announce_next(first, rows);
    cut(rows, units);
    pool_.parallel_each(cuts_.size() - 1,
                        [&](size_t i, int thread) { body(cuts_[i], cuts_[i + 1], thread); });
  }

 private:
  void cut(int64_t rows, int64_t units);
  int64_t few_rows_pieces(int64_t units) const;
  // Lets the threads that wait for the pass after that of `first` bring in what they will read there.
  void announce_next(const Linear& first, int64_t rows);

  ThreadPool& pool_;
  // First linear of a pass -> those whose rows the next pass deals out (of gate and up, which go together,
  // gate).
  std::unordered_map<const Linear*, std::vector<const Linear*>> next_;
  std::vector<int64_t> cuts_;  // where a pass is cut into pieces
};

}  // namespace nibble
