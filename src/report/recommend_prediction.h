// What a configuration would need and do on a machine that did not measure it.
#pragma once

#include <optional>

#include "report/recommend_candidates.h"

namespace nibble::report {

// Peak memory is taken over: weights, cache and workspace are sized by the program, not by the machine.
Figure predict_memory(const Figure& here);

// Tokens/s of one sequence with memory that yields `bandwidth` bytes/s. The cost model: a token takes the
// time to read the bytes that the bench measured being read, plus what it took here beside reading:
//   t' = bytes/bandwidth + (t − bytes/bandwidth_here).
// The range runs to the other extreme, that all of t scales with the bandwidth. Missing without a bandwidth,
// and where the bench could not tell the bytes (weights that fit into the cache).
Figure predict_decode(const VariantView& variant, const std::optional<double>& bandwidth);

}  // namespace nibble::report
